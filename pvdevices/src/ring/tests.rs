//! The ring against the frontend's side of it, against a model, and against frontends that lie.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::{BackRing, RingError, RingState};
use crate::domain::{Access, Domain, Grant};
use crate::mock::{MockDomain, MockRing, PATIENCE};

/// Entries of netif tx, netif rx, blkif of both ABIs, and one larger than a page.
const ENTRY_SIZES: [usize; 5] = [12, 8, 108, 112, 5000];

fn map(domain: &Arc<MockDomain>, ring: &MockRing) -> Vec<Grant> {
    let grants = domain.grants();
    let map = |gref| Grant::map(&grants, gref, Access::Write).unwrap();
    ring.grefs().into_iter().map(map).collect()
}

fn pair(pages: usize, entry_size: usize, start: u32) -> (Arc<MockDomain>, MockRing, BackRing) {
    let domain = MockDomain::new(1, pages);
    let front = MockRing::starting_at(&domain, pages, entry_size, start);
    let back = BackRing::new(map(&domain, &front), entry_size).unwrap();
    (domain, front, back)
}

fn entry(number: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| number.wrapping_mul(31).wrapping_add(at as u32) as u8)
        .collect()
}

#[test]
fn sizes_are_those_of_the_header() {
    for (pages, entry_size, size) in [(1, 112, 32), (16, 112, 512), (1, 12, 256), (2, 108, 64)] {
        let (_domain, front, back) = pair(pages, entry_size, 0);
        assert_eq!((back.size(), front.size()), (size, size));
    }
}

#[test]
fn impossible_rings_are_refused() {
    let domain = MockDomain::new(1, 32);
    let front = MockRing::new(&domain, 4, 12);
    let mut pages = map(&domain, &front);
    pages.pop();
    assert_eq!(BackRing::new(pages, 12).unwrap_err(), RingError::Pages(3));
    assert_eq!(
        BackRing::new(Vec::new(), 12).unwrap_err(),
        RingError::Pages(0)
    );
    for size in [0, 4096 * 4] {
        let refused = BackRing::new(map(&domain, &front), size).unwrap_err();
        assert_eq!(refused, RingError::EntrySize(size));
    }
    let gref = front.grefs()[0];
    let readable = Grant::map(&domain.grants(), gref, Access::Read).unwrap();
    let refused = BackRing::new(vec![readable], 12).unwrap_err();
    assert_eq!(refused, RingError::ReadOnly(gref));
}

#[test]
fn entries_lie_across_pages() {
    // 36 entries of 112 bytes end in the first page; the 37th lies on two.
    let (_domain, mut front, mut back) = pair(16, 112, 0);
    for number in 0..512 {
        front.put_request(&entry(number, 112));
    }
    assert!(front.push_requests());
    let mut buf = [0; 112];
    for number in 0..512 {
        assert!(back.next_request(&mut buf).unwrap());
        assert_eq!(buf[..], entry(number, 112), "entry {number}");
        back.put_response(&entry(!number, 112));
    }
    assert!(back.push_responses());
    for number in 0..512u32 {
        assert!(front.next_response(&mut buf));
        assert_eq!(buf[..], entry(!number, 112), "entry {number}");
    }
}

#[test]
fn a_request_is_seen_once() {
    let (_domain, mut front, mut back) = pair(1, 12, 0);
    front.put_request(&[1; 12]);
    let _ = front.push_requests();
    let mut buf = [0; 12];
    assert!(back.next_request(&mut buf).unwrap());
    front.write_slot(0, &[2; 12]);
    assert_eq!(buf, [1; 12]);
    assert!(!back.next_request(&mut buf).unwrap());
    assert_eq!(buf, [1; 12]);
}

#[test]
fn what_is_produced_beyond_the_ring_breaks_it() {
    for start in [0, u32::MAX - 3] {
        let (_domain, front, mut back) = pair(1, 112, start);
        front.forge_req_prod(start.wrapping_add(32));
        assert_eq!(back.unconsumed(), Ok(32));
        front.forge_req_prod(start.wrapping_add(33));
        let error = back.unconsumed().unwrap_err();
        let RingError::Overrun { req_prod, size, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((req_prod, size), (start.wrapping_add(33), 32));
        // For good, also after the frontend takes it back.
        front.forge_req_prod(start);
        assert_eq!(back.next_request(&mut [0; 4]), Err(error));
        assert_eq!(back.final_check(), Err(error));
    }
}

#[test]
fn the_room_is_what_is_not_answered_yet() {
    let (_domain, mut front, mut back) = pair(1, 112, 0);
    for _ in 0..32 {
        front.put_request(&[0]);
    }
    let _ = front.push_requests();
    while back.next_request(&mut [0; 4]).unwrap() {}
    assert_eq!(back.in_flight(), 32);
    front.forge_req_prod(33);
    assert!(matches!(back.unconsumed(), Err(RingError::Overrun { .. })));
}

#[test]
fn a_producer_that_goes_back_breaks_the_ring() {
    let (_domain, mut front, mut back) = pair(1, 112, 0);
    for _ in 0..5 {
        front.put_request(&[0]);
    }
    let _ = front.push_requests();
    while back.next_request(&mut [0; 4]).unwrap() {}
    front.forge_req_prod(4);
    assert!(matches!(back.final_check(), Err(RingError::Overrun { .. })));
}

#[test]
fn an_impossible_start_is_refused() {
    let domain = MockDomain::new(1, 1);
    let front = MockRing::new(&domain, 1, 112);
    front.forge_rsp_prod(100);
    let refused = BackRing::new(map(&domain, &front), 112).unwrap_err();
    assert!(matches!(refused, RingError::Overrun { rsp_prod: 100, .. }));
    let state = RingState {
        req_cons: 40,
        ..RingState::default()
    };
    front.forge_rsp_prod(0);
    assert!(BackRing::restore(map(&domain, &front), 112, state).is_err());
    let state = RingState {
        req_cons: 3,
        rsp_prod_pvt: 3,
        rsp_prod: 4,
    };
    front.forge_req_prod(3);
    let refused = BackRing::restore(map(&domain, &front), 112, state).unwrap_err();
    assert_eq!(refused, RingError::State(state));
}

#[test]
fn a_frontend_may_have_begun_before() {
    // As after a backend's restart: what was answered is told by the page.
    let (domain, mut front, mut back) = pair(1, 12, 7);
    front.put_request(&[1; 12]);
    front.put_request(&[2; 12]);
    let _ = front.push_requests();
    let mut buf = [0; 12];
    assert!(back.next_request(&mut buf).unwrap());
    back.put_response(&[3; 4]);
    assert!(back.push_responses());
    drop(back);
    let mut back = BackRing::new(map(&domain, &front), 12).unwrap();
    assert!(back.next_request(&mut buf).unwrap());
    assert_eq!(buf, [2; 12]);
}

#[test]
fn saved_and_restored_in_mid_flight() {
    let (domain, mut front, mut back) = pair(1, 12, u32::MAX);
    for number in 0..5 {
        front.put_request(&[number; 12]);
    }
    let _ = front.push_requests();
    let mut buf = [0; 12];
    for _ in 0..3 {
        assert!(back.next_request(&mut buf).unwrap());
    }
    back.put_response(&[9; 4]);
    let state = back.save();
    let mut back = BackRing::restore(map(&domain, &front), 12, state).unwrap();
    assert_eq!((back.in_flight(), back.unconsumed()), (2, Ok(2)));
    back.put_response(&[8; 4]);
    assert!(back.push_responses());
    let mut response = [0; 4];
    assert!(front.next_response(&mut response));
    assert_eq!(response, [9; 4]);
    assert!(back.next_request(&mut buf).unwrap());
    assert_eq!(buf, [3; 12]);
}

#[test]
fn one_notification_for_a_batch_and_none_for_who_polls() {
    let (_domain, mut front, mut back) = pair(1, 12, 0);
    for _ in 0..8 {
        front.put_request(&[0; 12]);
    }
    let _ = front.push_requests();
    assert!(!back.push_responses(), "nothing to push");
    for _ in 0..4 {
        assert!(back.next_request(&mut [0; 12]).unwrap());
        back.put_response(&[0; 4]);
    }
    assert!(back.push_responses());
    assert!(back.next_request(&mut [0; 12]).unwrap());
    back.put_response(&[0; 4]);
    assert!(!back.push_responses(), "the frontend has not asked again");
    while front.next_response(&mut [0; 4]) {}
    assert!(!front.final_check());
    assert!(back.next_request(&mut [0; 12]).unwrap());
    back.put_response(&[0; 4]);
    assert!(back.push_responses());
}

#[test]
fn final_check_asks_for_the_next_request() {
    let (_domain, mut front, mut back) = pair(1, 12, 0);
    assert!(!back.final_check().unwrap());
    assert_eq!(front.req_event(), 1);
    front.put_request(&[0; 12]);
    assert!(front.push_requests(), "asked for");
    front.put_request(&[0; 12]);
    assert!(!front.push_requests(), "not asked for again");
    assert!(back.final_check().unwrap());
    while back.next_request(&mut [0; 12]).unwrap() {}
    assert!(!back.final_check().unwrap());
    assert_eq!(front.req_event(), 3);
}

#[test]
#[should_panic(expected = "no request is left to answer")]
fn more_responses_than_requests_are_the_devices_mistake() {
    let (_domain, _front, mut back) = pair(1, 12, 0);
    back.put_response(&[0; 4]);
}

/// Both sides at once, asleep whenever the other has not asked to be woken: a lost wake-up would end
/// this at the time limit.
#[test]
fn no_wake_up_is_lost() {
    const REQUESTS: u32 = 20_000;
    let domain = MockDomain::new(1, 1);
    let mut front = MockRing::starting_at(&domain, 1, 12, u32::MAX - 100);
    let port = domain.alloc_port();
    let mut back = BackRing::new(map(&domain, &front), 12).unwrap();
    let channel = domain.bind(port.number()).unwrap();
    let backend = std::thread::spawn(move || {
        let mut served = 0;
        let mut request = [0; 12];
        while served < REQUESTS {
            while back.next_request(&mut request).unwrap() {
                back.put_response(&request[..4]);
                served += 1;
                if back.push_responses() {
                    channel.notify();
                }
            }
            if !back.final_check().unwrap() && served < REQUESTS {
                let mut fds = [rustix::event::PollFd::new(
                    &channel,
                    rustix::event::PollFlags::IN,
                )];
                let timeout = PATIENCE.try_into().unwrap();
                assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1));
                channel.clear();
            }
        }
    });
    let begun = Instant::now();
    let (mut put, mut taken) = (0u32, 0u32);
    while taken < REQUESTS {
        while put < REQUESTS && front.free() > 0 && put - taken < 1 + put % 7 {
            let mut request = [0; 12];
            request[..4].copy_from_slice(&put.to_le_bytes());
            front.submit(&[request], &port);
            put += 1;
        }
        let mut response = [0; 4];
        front.wait_response(&port, &mut response);
        assert_eq!(u32::from_le_bytes(response), taken);
        taken += 1;
        assert!(begun.elapsed() < PATIENCE * 3);
    }
    backend.join().unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Push,
    Consume(u8),
    Answer(u8),
    PushResponses,
    Take(u8),
    FinalCheck,
    Restore,
    Forge(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => any::<u8>().prop_map(Step::Put),
        8 => Just(Step::Push),
        8 => any::<u8>().prop_map(Step::Consume),
        8 => any::<u8>().prop_map(Step::Answer),
        8 => Just(Step::PushResponses),
        8 => any::<u8>().prop_map(Step::Take),
        4 => Just(Step::FinalCheck),
        1 => Just(Step::Restore),
        1 => any::<u32>().prop_map(Step::Forge),
    ];
    prop::collection::vec(step, 1..200)
}

/// What must be so, told without any index arithmetic.
#[derive(Default)]
struct Model {
    /// Put by the frontend, not shown.
    put: VecDeque<Vec<u8>>,
    /// Shown, not consumed.
    shown: VecDeque<Vec<u8>>,
    /// Consumed, not answered.
    consumed: VecDeque<Vec<u8>>,
    /// Answered, not shown.
    answered: VecDeque<Vec<u8>>,
    /// Shown to the frontend.
    responses: VecDeque<Vec<u8>>,
    next: u32,
}

/// Runs the steps on a ring and on the model.
struct Run {
    back: Option<BackRing>,
    front: MockRing,
    domain: Arc<MockDomain>,
    entry_size: usize,
    model: Model,
}

impl Run {
    fn back(&mut self) -> &mut BackRing {
        self.back.as_mut().expect("taken only while restored")
    }

    /// False once the ring is broken, which the step must have foreseen.
    fn step(&mut self, step: &Step) -> Result<bool, TestCaseError> {
        match *step {
            Step::Put(count) => self.put(count),
            Step::Push => {
                let _ = self.front.push_requests();
                let put = std::mem::take(&mut self.model.put);
                self.model.shown.extend(put);
            }
            Step::Consume(count) => self.consume(count)?,
            Step::Answer(count) => self.answer(count),
            Step::PushResponses => {
                let notify = self.back().push_responses();
                prop_assert!(!notify || !self.model.answered.is_empty());
                let answered = std::mem::take(&mut self.model.answered);
                self.model.responses.extend(answered);
            }
            Step::Take(count) => self.take(count)?,
            Step::FinalCheck => {
                let waits = self.back().final_check().unwrap();
                prop_assert_eq!(waits, !self.model.shown.is_empty());
            }
            Step::Restore => {
                let state = self.back().save();
                self.back = None;
                let pages = map(&self.domain, &self.front);
                self.back = Some(BackRing::restore(pages, self.entry_size, state).unwrap());
            }
            Step::Forge(req_prod) => return self.forge(req_prod),
        }
        Ok(true)
    }

    fn put(&mut self, count: u8) {
        for _ in 0..u32::from(count).min(self.front.free()) {
            let request = entry(self.model.next, self.entry_size);
            self.model.next += 1;
            self.front.put_request(&request);
            self.model.put.push_back(request);
        }
    }

    fn consume(&mut self, count: u8) -> Result<(), TestCaseError> {
        let mut buf = vec![0; self.entry_size];
        for _ in 0..count {
            let got = self.back().next_request(&mut buf).unwrap();
            let expected = self.model.shown.pop_front();
            prop_assert_eq!(got.then(|| buf.clone()), expected.clone());
            let Some(request) = expected else { break };
            self.model.consumed.push_back(request);
        }
        let waiting = self.back().unconsumed().unwrap();
        prop_assert_eq!(waiting as usize, self.model.shown.len());
        Ok(())
    }

    fn answer(&mut self, count: u8) {
        for _ in 0..count {
            let Some(mut request) = self.model.consumed.pop_front() else {
                break;
            };
            request.reverse();
            self.back().put_response(&request);
            self.model.answered.push_back(request);
        }
    }

    fn take(&mut self, count: u8) -> Result<(), TestCaseError> {
        let mut buf = vec![0; self.entry_size];
        for _ in 0..count {
            let got = self.front.next_response(&mut buf);
            let expected = self.model.responses.pop_front();
            prop_assert_eq!(got.then(|| buf.clone()), expected.clone());
            if expected.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Any index but the room's is refused; one that fits is taken back again.
    fn forge(&mut self, req_prod: u32) -> Result<bool, TestCaseError> {
        let honest = self
            .front
            .req_prod()
            .wrapping_sub(self.model.put.len() as u32);
        let consumed = honest.wrapping_sub(self.model.shown.len() as u32);
        let unanswered = self.model.consumed.len() as u32;
        let fits = req_prod.wrapping_sub(consumed) <= self.front.size() - unanswered;
        self.front.forge_req_prod(req_prod);
        let result = self.back().unconsumed();
        prop_assert_eq!(result.is_ok(), fits);
        if fits {
            self.front.forge_req_prod(honest);
            prop_assert!(self.back().unconsumed().is_ok());
        }
        Ok(fits)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_ring_is_two_queues(
        order in 0..5u32,
        entry_size in prop::sample::select(ENTRY_SIZES.to_vec()),
        start in prop_oneof![Just(0u32), (0..1000u32).prop_map(|n| n.wrapping_neg()), any::<u32>()],
        steps in steps(),
    ) {
        let pages = (1 << order).max(if entry_size > 4000 { 2 } else { 1 });
        let (domain, front, back) = pair(pages, entry_size, start);
        let model = Model::default();
        let mut run = Run { domain, front, back: Some(back), entry_size, model };
        for step in &steps {
            if !run.step(step)? {
                break;
            }
        }
    }
}
