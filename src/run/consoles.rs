//! The domain's consoles beside the first, and its channels: a character device for each, open for
//! the life of the process, and a device on it that each domain is given.

use std::sync::{Arc, Mutex};

use xenner_console::config::ChardevConfig;
use xenner_console::{Chardev, ChardevError, ChardevOptions, FdSource};
use xenner_pvdevices::consback::{ChannelEvents, ConsBack, ConsoleBackend, ConsoleLabels};

use super::devices::Place;
use super::ends::{Inbox, Wish};
use super::lock;
use crate::config::{ChannelConfig, VmConfig};
use crate::qmp::control::{ChardevInfo, RingStats};

/// The class on the bus.
pub const CLASS: &str = "console";

/// A console beside the first, or a channel.
#[derive(Debug)]
pub struct Console {
    /// Its number, from 1: in Linux hvc1.
    pub number: u32,
    /// Both of its ends.
    pub backend: Arc<Mutex<ConsoleBackend>>,
    /// What was asked for, if it is a channel.
    pub channel: Option<ChannelConfig>,
    /// The guest uses it, as far as that is known: a mere console always.
    pub used: bool,
}

/// The first console, then these, in the order of their numbers.
pub fn all<'a>(
    first: &'a Arc<Mutex<ConsoleBackend>>,
    others: &'a [Console],
) -> impl Iterator<Item = &'a Arc<Mutex<ConsoleBackend>>> {
    let others = others.iter().map(|console| &console.backend);
    std::iter::once(first).chain(others)
}

/// A console that is to become a device of the domain.
pub type NewDevice = (Place, Box<ConsBack>);

/// Opens an end, with the keys of the command line.
///
/// # Errors
/// [`ChardevError`], which names the option.
pub fn open_end(
    chardev: &ChardevConfig,
    config: &VmConfig,
    fds: &mut dyn FdSource,
) -> Result<Arc<Mutex<ConsoleBackend>>, ChardevError> {
    let options = ChardevOptions {
        escape: config.escape_char,
        ..Default::default()
    };
    let end = Chardev::open(chardev, options, fds)?;
    Ok(Arc::new(Mutex::new(ConsoleBackend::new(end))))
}

/// Opens all consoles of the configuration but the first, then its channels, in their order.
///
/// # Errors
/// [`ChardevError`], which names the option.
pub fn open(
    config: &VmConfig,
    fds: &mut dyn FdSource,
    inbox: &Inbox,
) -> Result<(Vec<Console>, Vec<NewDevice>), ChardevError> {
    let consoles = config.consoles.iter().skip(1);
    let consoles = consoles.map(|console| (&console.chardev, None));
    let channels = config.channels.iter();
    let channels = channels.map(|channel| (&channel.chardev, Some(channel)));
    let (mut all, mut devices) = (Vec::new(), Vec::new());
    for (number, (id, channel)) in (1..).zip(consoles.chain(channels)) {
        // the configuration was refused if there is none
        let Some(chardev) = config.chardev(id) else {
            continue;
        };
        let backend = open_end(chardev, config, fds)?;
        let told = channel.map(|_| {
            let inbox = inbox.clone();
            Arc::new(Usage { number, inbox }) as Arc<dyn ChannelEvents>
        });
        let labels = labels(&lock(&backend), channel);
        let device = Box::new(ConsBack::new(labels, backend.clone(), told));
        let place = Place {
            class: CLASS,
            id: number,
            frontend: device.frontend_keys(),
        };
        devices.push((place, device));
        all.push(Console {
            number,
            backend,
            used: channel.is_none(),
            channel: channel.cloned(),
        });
    }
    Ok((all, devices))
}

fn labels(console: &ConsoleBackend, channel: Option<&ChannelConfig>) -> ConsoleLabels {
    let end = console.end();
    let filename = end.filename();
    let mut labels = ConsoleLabels {
        name: channel.map(|channel| channel.name.clone()),
        output: format!("chardev:{}", end.id()),
        ..ConsoleLabels::default()
    };
    match reach(&filename) {
        Some(Reach::Pty(path)) => {
            labels.output = "pty".to_owned();
            labels.connection = Some("pty");
            labels.tty = Some(path.to_owned());
        }
        Some(Reach::Socket(path)) => {
            labels.connection = Some("socket");
            labels.path = Some(path.to_owned());
        }
        None => {}
    }
    labels
}

/// What a program opens to have a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach<'a> {
    /// A terminal.
    Pty(&'a str),
    /// A unix socket.
    Socket(&'a str),
}

impl<'a> Reach<'a> {
    /// Its path.
    pub fn path(self) -> &'a str {
        match self {
            Self::Pty(path) | Self::Socket(path) => path,
        }
    }
}

/// How to reach the end of this `filename`, if a program can by a path.
pub fn reach(filename: &str) -> Option<Reach<'_>> {
    if let Some(rest) = filename.strip_prefix("pty:") {
        return Some(Reach::Pty(before_options(rest)));
    }
    let connected = filename.trim_start_matches("disconnected:");
    let rest = connected.strip_prefix("unix:")?;
    Some(Reach::Socket(before_options(rest)))
}

fn before_options(text: &str) -> &str {
    text.split(',').next().unwrap_or(text)
}

/// Brings a channel's use to the main loop.
#[derive(Debug)]
struct Usage {
    number: u32,
    inbox: Inbox,
}

impl ChannelEvents for Usage {
    fn used(&self, used: bool) {
        let number = self.number;
        self.inbox.put(Wish::Channel { number, used });
    }
}

/// A console's end, as clients are told.
pub fn info(console: &Mutex<ConsoleBackend>, frontend_open: bool) -> ChardevInfo {
    let console = lock(console);
    ChardevInfo {
        label: console.end().id().to_owned(),
        filename: console.end().filename(),
        frontend_open,
    }
}

/// A console's part of the statistics.
pub fn ring(number: u32, console: &Mutex<ConsoleBackend>) -> RingStats {
    let traffic = lock(console).traffic();
    RingStats {
        name: format!("{CLASS} {number}"),
        counters: [
            ("output-bytes".to_owned(), traffic.to_user.into()),
            ("input-bytes".to_owned(), traffic.to_domain.into()),
        ]
        .into_iter()
        .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_programs_reach_an_end() {
        for (filename, wanted) in [
            ("pty:/dev/pts/3", Some(Reach::Pty("/dev/pts/3"))),
            ("unix:/s,server=on", Some(Reach::Socket("/s"))),
            ("disconnected:unix:/s,server=on", Some(Reach::Socket("/s"))),
            ("stdio", None),
            ("disconnected:tcp:localhost:1", None),
        ] {
            assert_eq!(reach(filename), wanted, "{filename}");
        }
    }

    #[test]
    fn channels_come_after_the_consoles() {
        let mut config = VmConfig::default();
        for id in ["a", "b", "c"] {
            let backend = xenner_console::config::ChardevBackend::Ringbuf { size: 4096 };
            config.chardevs.push(ChardevConfig::new(id, backend));
        }
        let console = |id: &str| crate::config::ConsoleConfig { chardev: id.into() };
        config.consoles = vec![console("a"), console("b")];
        config.channels = vec![ChannelConfig {
            chardev: "c".into(),
            name: "org.xenner.test".into(),
            id: Some("channel0".into()),
        }];
        let mut fds = xenner_console::InheritedFds::default();
        let inbox = Inbox::new().unwrap();
        let (consoles, devices) = open(&config, &mut fds, &inbox).unwrap();
        let told = consoles.iter().map(|console| {
            let info = info(&console.backend, console.used);
            (console.number, info.label, info.frontend_open)
        });
        let wanted = [(1, "b".to_owned(), true), (2, "c".to_owned(), false)];
        assert_eq!(told.collect::<Vec<_>>(), wanted);
        let places = devices.iter().map(|(place, _)| (place.class, place.id));
        assert_eq!(places.collect::<Vec<_>>(), [(CLASS, 1), (CLASS, 2)]);
        config.consoles.clear();
        let (consoles, _) = open(&config, &mut fds, &inbox).unwrap();
        assert_eq!(
            consoles[0].number, 1,
            "a channel is never the first console"
        );
    }
}
