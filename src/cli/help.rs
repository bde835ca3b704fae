//! The texts of `-help`, `-version` and `-option help`.
//!
//! All of them come from the tables that the parser works with, so they cannot
//! say anything else than what is parsed.

use clap::{Arg, Command};

use super::Listing;
use super::foreign::REFUSED;
use super::normalise::{names, takes_value, value_name};

/// Columns of a line of text.
const WIDTH: usize = 79;
/// Columns in front of an option's description, as in QEMU's help.
const INDENT: usize = 16;

const HEAD: &str = "\
usage: xenner -kernel FILE [-initrd FILE] [-append TEXT] [option...]

Boots an unmodified Xen paravirtual kernel as a KVM virtual machine. Options
are QEMU's: one dash or two, values in a word of their own, and where a value
has keys, ',,' stands for a comma. NAME in [brackets=] may be left out.
";

const FOOT: &str = "
Examples:
  xenner -kernel vmlinuz -initrd initrd.gz -append \"console=hvc0\" -m 512 -nographic
  xenner -kernel vmlinuz -m 1G -smp 4 -chardev socket,id=c0,path=/tmp/c0,server=on,wait=off -serial chardev:c0
  xenner -kernel vmlinuz -serial pty -daemonize -pidfile /tmp/domain.pid -D /tmp/domain.log

docs/command-line.md describes every option with an example.
";

/// `-version`.
pub(super) fn version() -> String {
    format!("xenner {}\n", env!("CARGO_PKG_VERSION"))
}

/// `-help`.
pub(super) fn help(command: &Command) -> String {
    let mut text = format!("{}{HEAD}", version());
    for heading in headings(command) {
        let options = || {
            command
                .get_arguments()
                .filter(move |arg| arg.get_help_heading() == Some(heading))
        };
        text.push_str(&format!("\n{heading}:\n"));
        if heading == REFUSED {
            let names: Vec<String> = options().map(title).collect();
            text.push_str(&wrapped(&names.join(", "), 0));
        } else {
            options().for_each(|option| text.push_str(&describe(option)));
        }
    }
    text + FOOT
}

/// `-option help`.
pub(super) fn listing(listing: &Listing) -> String {
    let width = listing
        .rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    let column = if width > 24 { INDENT } else { width + 4 };
    let mut text = format!("{}\n", listing.title);
    for (name, help) in &listing.rows {
        text.push_str(&entry(&format!("  {name}"), help, column));
    }
    text
}

/// Headings in the order of their first option, the refused options last.
fn headings(command: &Command) -> Vec<&str> {
    let mut headings: Vec<&str> = Vec::new();
    for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings.sort_by_key(|heading| *heading == REFUSED);
    headings
}

/// `-name, -alias`.
fn title(option: &Arg) -> String {
    let names: Vec<String> = names(option).map(|name| format!("-{name}")).collect();
    names.join(", ")
}

fn describe(option: &Arg) -> String {
    let mut title = title(option);
    if takes_value(option) {
        title.push(' ');
        title.push_str(&value_name(option));
    }
    // clap strips the last full stop of a doc comment.
    let mut help = option
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    if !help.ends_with('.') {
        help.push('.');
    }
    entry(&title, &help, INDENT)
}

/// A title, and its text in the column beside or below it.
fn entry(title: &str, help: &str, column: usize) -> String {
    let body = wrapped(help, column);
    if title.len() < column {
        format!("{title:column$}{}", body.trim_start())
    } else {
        format!("{title}\n{body}")
    }
}

/// Breaks text into lines of at most [`WIDTH`] columns behind `indent` blanks.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&format!("{:indent$}{line}\n", ""));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines + &format!("{:indent$}{line}\n", "")
}
