//! The requests that a queue has taken up and not answered.

use std::sync::Arc;
use std::time::Instant;

use super::engine::{Job, Part};
use super::request::{Plan, Range, Work};
use crate::image::Image;

/// A request under way.
#[derive(Debug)]
pub struct Slot {
    /// The frontend's number of it.
    pub id: u64,
    /// The operation to answer with.
    pub op: u8,
    /// What it does.
    pub plan: Plan,
    /// When it was taken up.
    pub started: Instant,
    image: Arc<dyn Image>,
    flush_before: bool,
    parts: Option<Vec<Part>>,
    flush_after: bool,
    /// The job that failed and is kept.
    held: Option<Box<Job>>,
}

impl Slot {
    /// A request that does `plan` to `image` with the guest's pages in `parts`.
    #[must_use]
    pub fn new(
        (id, op): (u64, u8),
        plan: Plan,
        image: Arc<dyn Image>,
        parts: Vec<Part>,
        started: Instant,
    ) -> Self {
        Self {
            id,
            op,
            started,
            image,
            flush_before: plan.flush_before,
            parts: plan.data.map(|_| parts),
            flush_after: plan.flush_after,
            held: None,
            plan,
        }
    }

    /// The next of its jobs; nothing when all are done.
    pub fn next_job(&mut self) -> Option<Box<Job>> {
        if std::mem::take(&mut self.flush_before) {
            return Some(self.flush());
        }
        if let Some((data, parts)) = self.plan.data.zip(self.parts.take()) {
            return Some(Box::new(Job {
                image: self.image.clone(),
                work: data.work,
                range: data.range,
                parts,
            }));
        }
        std::mem::take(&mut self.flush_after).then(|| self.flush())
    }

    fn flush(&self) -> Box<Job> {
        Box::new(Job {
            image: self.image.clone(),
            work: Work::Flush,
            range: Range::EMPTY,
            parts: Vec::new(),
        })
    }

    /// Keeps a job that failed.
    pub fn hold(&mut self, job: Box<Job>) {
        self.held = Some(job);
    }

    /// The job that was kept.
    pub fn take_held(&mut self) -> Option<Box<Job>> {
        self.held.take()
    }
}

/// The slots, by the token that a job comes back with.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    /// Room for `count` requests, as many as a ring has entries.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let count = count as usize;
        Self {
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a request in; gives it back if there is no room.
    pub fn insert(&mut self, slot: Slot) -> Result<usize, Box<Slot>> {
        let Some(token) = self.free.pop() else {
            return Err(Box::new(slot));
        };
        self.slots[token] = Some(slot);
        Ok(token)
    }

    /// The request with this token.
    pub fn get(&mut self, token: usize) -> Option<&mut Slot> {
        self.slots.get_mut(token)?.as_mut()
    }

    /// Takes a request out.
    pub fn remove(&mut self, token: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(token)?.take()?;
        self.free.push(token);
        Some(slot)
    }

    /// The kept jobs of all requests, oldest request first.
    pub fn take_held(&mut self) -> Vec<(usize, Box<Job>)> {
        let mut held: Vec<_> = (self.slots.iter_mut().enumerate())
            .filter_map(|(token, slot)| {
                let slot = slot.as_mut()?;
                Some((slot.started, token, slot.take_held()?))
            })
            .collect();
        held.sort_by_key(|(started, token, _)| (*started, *token));
        held.into_iter()
            .map(|(_, token, job)| (token, job))
            .collect()
    }
}
