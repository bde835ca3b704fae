//! The outcome of a benchmark run: kept as JSON, shown as a Markdown table.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::counters::Exits;
use super::devices;

/// One run on one machine.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The kind of KVM and what else was special.
    pub title: String,
    /// What the figures are: `ns` or `instructions`.
    pub unit: String,
    /// Does processor time stand beside the figures?
    #[serde(default)]
    pub cpu: bool,
    /// A column for each way to run the same program.
    pub columns: Vec<Column>,
}

/// All figures of one way to run the program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Column {
    /// What ran it.
    pub name: String,
    /// Seconds from exec to the first line of user space, one a boot.
    pub to_user_space: Vec<f64>,
    /// Seconds from exec to the end of the process, power-off included.
    pub to_power_off: Vec<f64>,
    /// The program's figures.
    pub rows: Vec<Row>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Nanoseconds (or instructions) for one operation.
    pub median: f64,
    /// The least of all repetitions.
    pub least: f64,
    /// Processor time of the process for one operation, the guest's own included, in nanoseconds.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Exits from the guest while it was measured.
    pub exits: Option<Counted>,
}

/// Exits during a number of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// All exits.
    pub all: u64,
    /// Those that can reach the process.
    pub process: u64,
    /// The operations.
    pub operations: u64,
}

impl Counted {
    /// `exits` during `operations`.
    pub fn new(exits: Exits, operations: u64) -> Counted {
        Counted {
            all: exits.all,
            process: exits.process,
            operations,
        }
    }
}

impl Row {
    /// The row that a line of the guest's program holds, if it holds one.
    pub fn parse(line: &str) -> Option<Row> {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|name| !name.starts_with(['#', '@']))?;
        let numbers: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [median, least, _, _] = numbers[..] else {
            return None;
        };
        Some(Row {
            name: name.to_owned(),
            median,
            least,
            cpu: None,
            exits: None,
        })
    }
}

/// The median, or NaN of nothing.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        self.boots(&mut text);
        self.operations(&mut text);
        text
    }

    fn boots(&self, text: &mut String) {
        let booted: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| !column.to_power_off.is_empty())
            .collect();
        if booted.is_empty() {
            return;
        }
        text.push_str(
            "| boot, median of N, seconds | N | exec to user space | exec to power-off |\n",
        );
        text.push_str("| --- | --: | --: | --: |\n");
        for column in booted {
            let (up, off) = (median(&column.to_user_space), median(&column.to_power_off));
            let boots = column.to_power_off.len();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} | {boots} | {up:.2} | {off:.2} |", column.name);
        }
        text.push('\n');
    }

    fn operations(&self, text: &mut String) {
        let counted = |column: &Column| column.rows.iter().any(|row| row.exits.is_some());
        let _ = write!(text, "| operation, {} |", self.unit);
        for column in &self.columns {
            let _ = write!(text, " {} |", column.name);
            if self.cpu {
                text.push_str(" processor time (a byte) |");
            }
            if counted(column) {
                text.push_str(" exits to the process | exits, all |");
            }
        }
        if self.cpu {
            text.push_str(" throughput, of the second's |");
        }
        text.push_str("\n| --- |");
        for column in &self.columns {
            let cells = 1 + usize::from(self.cpu) + 2 * usize::from(counted(column));
            text.push_str(&" --: |".repeat(cells));
        }
        if self.cpu {
            text.push_str(" --: |");
        }
        text.push('\n');
        for name in self.names() {
            let _ = write!(text, "| {name} |");
            for column in &self.columns {
                let row = column.rows.iter().find(|row| row.name == name);
                text.push_str(&cells(row, counted(column), self.cpu));
            }
            if self.cpu {
                text.push_str(&self.share(name));
            }
            text.push('\n');
        }
    }

    /// The first column's throughput as a part of the second's.
    fn share(&self, name: &str) -> String {
        let row = |column: &Column| column.rows.iter().find(|row| row.name == name).cloned();
        let rows: Vec<Option<Row>> = self.columns.iter().map(row).collect();
        match &rows[..] {
            [Some(ours), Some(theirs)] => format!(" {:.2} |", theirs.median / ours.median),
            _ => " - |".to_owned(),
        }
    }

    /// The rows' names in the order of their first appearance.
    fn names(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = self.columns.iter().flat_map(|column| &column.rows);
        all.map(|row| row.name.as_str())
            .filter(|name| seen.insert(*name))
            .collect()
    }
}

fn cells(row: Option<&Row>, counted: bool, cpu: bool) -> String {
    let mut text = row.map_or_else(
        || " - |".to_owned(),
        |row| format!(" {} |", grouped(row.median)),
    );
    if cpu {
        text.push_str(&row.map_or_else(|| " - |".to_owned(), processor_time));
    }
    match (counted, row.and_then(|row| row.exits)) {
        (false, _) => {}
        (true, None) => text.push_str(" - | - |"),
        (true, Some(exits)) => {
            let each = |count: u64| count as f64 / exits.operations.max(1) as f64;
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                " {:.3} | {:.3} |",
                each(exits.process),
                each(exits.all)
            );
        }
    }
    text
}

/// Nanoseconds for an operation, and for a byte where it is about bytes.
fn processor_time(row: &Row) -> String {
    match (row.cpu, devices::bytes(&row.name)) {
        (None, _) => " - |".to_owned(),
        (Some(time), None) => format!(" {} |", grouped(time)),
        (Some(time), Some(bytes)) => {
            format!(" {} ({:.2}) |", grouped(time), time / f64::from(bytes))
        }
    }
}

/// Whole numbers in groups of three digits; one decimal below 100.
fn grouped(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let row = Row::parse("page_fault       1213.4       1151.0       1536.0      8192");
        let row = row.expect("a row");
        assert_eq!(
            (row.name.as_str(), row.median, row.least),
            ("page_fault", 1213.4, 1151.0)
        );
        assert_eq!(
            Row::parse("# cpus 2, clocksource tsc, 11 repetitions"),
            None
        );
        assert_eq!(Row::parse("@@END page_fault 100"), None);
        assert_eq!(Row::parse("[ 1.0] some kernel line 1 2 3"), None);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(3.04), "3.0");
        assert_eq!(grouped(997.4), "997");
        assert_eq!(grouped(1_992_413.0), "1,992,413");
    }

    #[test]
    fn tables_have_a_row_for_each_name() {
        let row = |name: &str, exits| Row {
            name: name.to_owned(),
            median: 1.0,
            least: 1.0,
            cpu: None,
            exits,
        };
        let exits = Counted::new(Exits { all: 5, process: 0 }, 10);
        let bare = Column {
            name: "bare".into(),
            rows: vec![row("a", None)],
            ..Column::default()
        };
        let rows = vec![row("a", Some(exits)), row("b", None)];
        let guest = Column {
            name: "xenner".into(),
            rows,
            ..Column::default()
        };
        let columns = vec![bare, guest];
        let text = Report {
            title: "t".into(),
            unit: "ns".into(),
            cpu: false,
            columns,
        }
        .markdown();
        assert!(text.contains("| a | 1.0 | 1.0 | 0.000 | 0.500 |"), "{text}");
        assert!(text.contains("| b | - | 1.0 | - | - |"), "{text}");
    }

    #[test]
    fn device_tables_compare() {
        let column = |name: &str, median| Column {
            name: name.into(),
            rows: vec![Row {
                name: "disk_read_4k_d1".into(),
                median,
                least: median,
                cpu: Some(8192.0),
                exits: None,
            }],
            ..Column::default()
        };
        let text = Report {
            title: "t".into(),
            unit: "ns".into(),
            cpu: true,
            columns: vec![column("a", 1000.0), column("b", 800.0)],
        }
        .markdown();
        let row = "| disk_read_4k_d1 | 1,000 | 8,192 (2.00) | 800 | 8,192 (2.00) | 0.80 |";
        assert!(text.contains(row), "{text}");
    }
}
