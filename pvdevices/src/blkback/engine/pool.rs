//! Threads that call images, shared by the queues of a disk. They start when they are needed.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Done, Job, Mailbox};

/// Threads of a disk at most: jobs sleep in the host's kernel most of their time.
const MAX_THREADS: usize = 16;

#[derive(Debug)]
struct Task {
    token: usize,
    job: Box<Job>,
    mailbox: Arc<Mailbox>,
}

impl Task {
    /// Runs the job and sends it back.
    fn run(self) {
        // What parses images is handed hostile files: its bug costs the guest a request, not a
        // queue that waits for ever.
        let result = catch_unwind(AssertUnwindSafe(|| self.job.run())).unwrap_or_else(|_| {
            log::error!(target: "blkback", "Internal error in {:?} on {:?}", self.job.work, self.job.image);
            Err(io::Error::from(rustix::io::Errno::IO))
        });
        self.mailbox.put(Done {
            token: self.token,
            job: self.job,
            result,
        });
    }
}

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life: tasks until the pool is dropped.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                task.run();
                state = self.lock();
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

/// The threads. They end when the pool is dropped, after the tasks that wait.
#[derive(Debug)]
pub struct Pool {
    name: String,
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool without threads yet; `name` is of the threads (the host shows 15 bytes).
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            shared: Arc::default(),
        }
    }

    /// Has a job done; it comes back to the mailbox.
    pub(super) fn start(&self, token: usize, job: Box<Job>, mailbox: &Arc<Mailbox>) {
        let task = Task {
            token,
            job,
            mailbox: mailbox.clone(),
        };
        let mut state = self.shared.lock();
        state.tasks.push_back(task);
        if state.tasks.len() > state.idle && state.threads < MAX_THREADS {
            state.threads += 1;
            drop(state);
            self.spawn();
        } else {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    fn spawn(&self) {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(self.name.clone());
        let Err(error) = thread.spawn(move || shared.serve()) else {
            return;
        };
        let mut state = self.shared.lock();
        state.threads -= 1;
        if state.threads > 0 {
            self.shared.work.notify_one();
            return;
        }
        // Nobody else is there to do it, so the caller does.
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        log::warn!(target: "blkback", "The host gives no thread for disk I/O: {error}");
        tasks.into_iter().for_each(Task::run);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_all();
    }
}
