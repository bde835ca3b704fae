//! The table of docs/libvirt.md, held against what the stories have run: a row is true if each story
//! that it names was told to its end, and its commands were given in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use libtest_mimic::Failed;

const DOCUMENT: &str = include_str!("../../docs/libvirt.md");
/// The line above the table's rows.
const HEAD: &str = "| virsh | what is checked | test |\n| --- | --- | --- |\n";

/// The commands of virsh and other programs by story.
static TOLD: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::new(BTreeMap::new());

/// A story came to its end.
pub fn told(story: String, commands: BTreeSet<String>) {
    if let Ok(mut told) = TOLD.lock() {
        told.insert(story, commands);
    }
}

/// The texts between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Rows whose stories were told, all of them, in this run.
pub fn table() -> Result<(), Failed> {
    let rows = DOCUMENT
        .split_once(HEAD)
        .ok_or("no table in docs/libvirt.md")?
        .1;
    let told = TOLD.lock().map_err(|_| "a story has panicked")?;
    let (mut checked, mut faults) = (0, Vec::new());
    for row in rows.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [commands, .., stories] = cells[..] else {
            return Err(format!("no row: {row}").into());
        };
        let stories: Vec<_> = quoted(stories).map(|story| told.get(story)).collect();
        let Some(stories) = stories.into_iter().collect::<Option<Vec<_>>>() else {
            continue;
        };
        checked += 1;
        let names = quoted(commands).filter_map(|text| text.split(' ').next());
        let word = |name: &&str| {
            name.starts_with(char::is_lowercase)
                && name.chars().all(|c| c == '-' || c.is_lowercase())
        };
        for name in names.filter(word) {
            if !stories.iter().any(|given| given.contains(name)) {
                faults.push(format!("{name} was not given: {row}"));
            }
        }
    }
    eprintln!("{checked} rows of the table were checked");
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}
