//! The monitors of a process, and the process that is nothing but monitors (`-machine none`).

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};
use xenner_console::FdSets;

use super::daemon::Ready;
use super::ends::{Bell, Inbox, SignalEnd, Wish};
use super::signals::EndSignals;
use super::{RunError, host, open_pid_file};
use crate::config::VmConfig;
use crate::kvm;
use crate::qmp::events::{LifeChange, ShutdownCause};
use crate::qmp::{Event, Nothing, Server, Subscriber};

/// How long a slow client is given to take the last answers.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Opens all monitors.
pub(super) fn open(config: &VmConfig, fds: FdSets) -> Result<Server, RunError> {
    let mut server = Server::new(fds).map_err(host("event descriptor"))?;
    for monitor in &config.monitors {
        // the configuration was refused if there is none
        if let Some(chardev) = config.chardev(&monitor.chardev) {
            server.add(monitor, chardev)?;
        }
    }
    Ok(server)
}

/// The time until the earliest of some moments, for an event loop, in milliseconds; -1 for none.
pub(super) fn timeout<const N: usize>(deadlines: [Option<Instant>; N]) -> i32 {
    let first = deadlines.into_iter().flatten().min();
    first.map_or(-1, |at| {
        let left = at.saturating_duration_since(Instant::now());
        i32::try_from(left.as_millis()).map_or(i32::MAX, |left| left.saturating_add(1))
    })
}

/// Answers questions about this program until somebody ends it. A daemon that a client has started
/// for its questions ends when that client has left.
pub(super) fn serve_nothing(
    config: &VmConfig,
    fds: FdSets,
    ready: Option<Ready>,
) -> Result<ExitCode, RunError> {
    let mut server = open(config, fds)?;
    let _pid_file = open_pid_file(config)?;
    let inbox = Inbox::new().map_err(host("event descriptor"))?;
    let signal_end = SignalEnd {
        signals: EndSignals::block().map_err(host("signal descriptor"))?,
        inbox: inbox.clone(),
    };
    let mut nothing = Nothing::new(server.events(), kvm::open().is_ok());
    nothing.set_chardevs(server.chardevs());
    let failed = |e: event_manager::Error| RunError::Loop(format!("{e:?}"));
    let mut events: EventManager<Subscriber> = EventManager::new().map_err(failed)?;
    for subscriber in server.subscribers() {
        events.add_subscriber(subscriber);
    }
    events.add_subscriber(Arc::new(Mutex::new(signal_end)));
    events.add_subscriber(Arc::new(Mutex::new(Bell(inbox.clone()))));
    if let Some(ready) = ready {
        ready.go().map_err(host("/dev/null"))?;
    }
    loop {
        let served = config.daemonize && server.is_deserted();
        if served || nothing.has_quit() {
            break;
        }
        match events.run_with_timeout(timeout([server.deadline()])) {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(failed(e)),
        }
        server.serve(&mut nothing);
        let signal = |wish: &Wish| matches!(wish, Wish::Signal(_));
        if inbox.take().iter().any(signal) {
            server.events().emit(Event::Shutdown(LifeChange {
                guest: false,
                reason: ShutdownCause::HostSignal,
            }));
            break;
        }
    }
    server.finish(PATIENCE);
    Ok(ExitCode::SUCCESS)
}
