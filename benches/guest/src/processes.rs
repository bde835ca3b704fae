//! Processes and the switches between them.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::{sys, timed};

/// One operation: a process forked, ended and waited for.
pub fn fork_exit(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            sys::fork(|| 0).wait();
        }
    })
}

/// One operation: a process forked, this program executed in it, waited for.
pub fn fork_exec(n: u64) -> Duration {
    timed(|| {
        for _ in 0..n {
            let code = sys::fork(sys::exec_and_exit).wait();
            assert_eq!(code, 0, "exec failed: is /proc mounted?");
        }
    })
}

/// Sends the byte back until the writer's end is closed.
fn echo(mut from: PipeReader, mut to: PipeWriter) -> i32 {
    let mut byte = [0];
    while from.read_exact(&mut byte).is_ok() && to.write_all(&byte).is_ok() {}
    0
}

fn round(to: &mut PipeWriter, from: &mut PipeReader) {
    let mut byte = [0];
    to.write_all(&byte).expect("the other end reads");
    from.read_exact(&mut byte).expect("the other end answers");
}

/// One operation: a byte there and back, two context switches.
fn ping_pong(n: u64, other_cpu: usize) -> Duration {
    sys::pin_to(0);
    let (there, mut to_there) = pipe().expect("a pipe");
    let (mut from_there, back) = pipe().expect("a pipe");
    let (child_there, child_back) = (there, back);
    let keep = to_there.try_clone().expect("a descriptor");
    let child = sys::fork(|| {
        sys::pin_to(other_cpu);
        sys::close_all(&[&to_there, &keep]);
        let (from, to) = (child_there.try_clone(), child_back.try_clone());
        match (from, to) {
            (Ok(from), Ok(to)) => echo(from, to),
            _ => 1,
        }
    });
    drop((child_there, child_back, keep));
    round(&mut to_there, &mut from_there);
    let start = Instant::now();
    for _ in 0..n {
        round(&mut to_there, &mut from_there);
    }
    let took = start.elapsed();
    drop(to_there);
    child.wait();
    took
}

/// A ping-pong between two processes on one processor.
pub fn pipe_one_cpu(n: u64) -> Duration {
    ping_pong(n, 0)
}

/// A ping-pong between two processes on a processor each.
pub fn pipe_two_cpus(n: u64) -> Duration {
    ping_pong(n, 1)
}

/// Sleep until `turn` is `wanted`.
fn await_turn(turn: &AtomicU32, wanted: u32) {
    loop {
        let seen = turn.load(Ordering::Acquire);
        if seen == wanted {
            return;
        }
        sys::futex_wait(turn, seen);
    }
}

fn give_turn(turn: &AtomicU32, to: u32) {
    turn.store(to, Ordering::Release);
    sys::futex_wake(turn);
}

/// One operation: a thread asleep on the other processor woken, and its answer.
pub fn futex_two_cpus(n: u64) -> Duration {
    const HERE: u32 = 0;
    const THERE: u32 = 1;
    let turn = AtomicU32::new(HERE);
    sys::pin_to(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sys::pin_to(1);
            // One round more than is timed: the first waits for this thread to start.
            for _ in 0..=n {
                await_turn(&turn, THERE);
                give_turn(&turn, HERE);
            }
        });
        let round = || {
            give_turn(&turn, THERE);
            await_turn(&turn, HERE);
        };
        round();
        timed(|| (0..n).for_each(|_| round()))
    })
}
