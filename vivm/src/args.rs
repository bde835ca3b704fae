//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Makes a libvirt domain one that runs under xenner, and lets you edit it
#[derive(Debug, Parser)]
#[command(
    name = "xenner-vivm",
    version,
    after_help = "Without an option that says otherwise the converted domain is opened in $VISUAL, \
        $EDITOR or vi; what was changed and what you have to decide stands at its top. It is defined \
        when you have saved it and leave the editor. An empty file gives up.\n\n\
        The document comes from virsh, and goes back by it: LIBVIRT_DEFAULT_URI and virsh's own \
        default say which libvirt is asked. A domain that runs has its new definition with its next \
        start.\n\n\
        Exit status: 0 if the domain is defined or printed, or nothing had to be done; 1 if not, or \
        if what was printed needs a decision; 2 for a wrong command line.",
    group = clap::ArgGroup::new("source").required(true)
)]
pub struct Args {
    /// The domain: its name, number or UUID
    #[arg(value_name = "DOMAIN", group = "source")]
    pub domain: Option<String>,

    /// Takes the domain from a file (- is standard input) and prints it converted; the XML of a Xen
    /// host's domain is fine
    #[arg(short, long, value_name = "XML", group = "source")]
    pub file: Option<PathBuf>,

    /// Converts and defines, without an editor
    #[arg(short, long, conflicts_with_all = ["print", "diff"])]
    pub no_edit: bool,

    /// With --file: defines the domain
    #[arg(long, conflicts_with_all = ["domain", "print", "diff"])]
    pub define: bool,

    /// Prints the converted XML and defines nothing
    #[arg(long, conflicts_with = "diff")]
    pub print: bool,

    /// Prints what would change, as a unified diff, and defines nothing
    #[arg(long)]
    pub diff: bool,

    /// Keeps the domain's XML as it was in a new file; virsh define takes it back
    #[arg(long, value_name = "FILE", conflicts_with_all = ["print", "diff"])]
    pub backup: Option<PathBuf>,

    /// The libvirt to ask, as virsh -c
    #[arg(short, long, value_name = "URI")]
    pub connect: Option<String>,

    /// xenner's path in the domain [default: the xenner beside this program, or the first in PATH]
    #[arg(long, value_name = "PATH")]
    pub emulator: Option<PathBuf>,

    /// The kernel [default: the domain's own, or GRUB for Xen as Debian's grub-xen-host has it]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// The kernel's initrd [default: the domain's own]
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line [default: the domain's own]
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
}

impl Args {
    /// What to call the domain before its XML is there.
    pub fn source(&self) -> String {
        match (&self.domain, &self.file) {
            (Some(domain), _) => domain.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn one_source_there_must_be() {
        let parse = |words: &[&str]| Args::try_parse_from([&["xenner-vivm"], words].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["a", "--file", "b"]).is_err());
        assert!(parse(&["a", "--define"]).is_err());
        assert!(parse(&["a", "-n", "--print"]).is_err());
        assert!(parse(&["a", "-c", "qemu:///session", "-n"]).is_ok());
        assert!(parse(&["--file", "-", "--define"]).is_ok());
    }
}
