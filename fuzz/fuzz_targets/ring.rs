//! The backend's side of a shared ring: whatever a frontend writes into its pages, in whatever order,
//! the backend takes no more requests than the ring has room for, in order and whole, answers into
//! the slots in order, and breaks the ring exactly when the producer's index cannot be. The first
//! four bytes choose the ring; each step is an operation byte and its operands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenner_pvdevices::domain::{Access, Domain, Grant};
use xenner_pvdevices::mock::{MockDomain, MockRing};
use xenner_pvdevices::ring::{BackRing, RingError};

const ENTRY_SIZES: [usize; 6] = [8, 12, 16, 108, 112, 3000];

struct Run {
    back: BackRing,
    front: MockRing,
    entry_size: usize,
    /// What the page's req_prod says.
    req_prod: u32,
    consumed: u32,
    answered: u32,
    broken: bool,
}

fuzz_target!(|data: &[u8]| {
    let Some((&[order, entry, start, fine], steps)) = data.split_first_chunk() else {
        return;
    };
    let pages = 1 << (order % 5);
    let entry_size = ENTRY_SIZES[usize::from(entry) % ENTRY_SIZES.len()];
    // Near the indices' wrap, mostly.
    let start = u32::from(start) << 24 | u32::from(fine).wrapping_neg() & 0xff_ffff;
    let domain = MockDomain::new(1, pages);
    let front = MockRing::starting_at(&domain, pages, entry_size, start);
    let mut run = Run {
        back: back_ring(&domain, &front, entry_size),
        front,
        entry_size,
        req_prod: start,
        consumed: start,
        answered: start,
        broken: false,
    };
    for step in steps.chunks_exact(5) {
        let value = u32::from_le_bytes([step[1], step[2], step[3], step[4]]);
        run.step(step[0], value);
    }
    drop(run);
    domain.assert_released();
});

fn back_ring(domain: &MockDomain, front: &MockRing, entry_size: usize) -> BackRing {
    let grants = domain.grants();
    let map = |gref| Grant::map(&grants, gref, Access::Write).expect("granted");
    let pages = front.grefs().into_iter().map(map).collect();
    BackRing::new(pages, entry_size).expect("a ring as honest frontends make it")
}

impl Run {
    fn step(&mut self, operation: u8, value: u32) {
        let size = self.front.size();
        match operation % 8 {
            0 => self.show(value),
            1 => self.show(self.consumed.wrapping_add(value % (size + 2))),
            2 => self.show(self.consumed.wrapping_sub(value % 3)),
            3 => self.front.forge_rsp_event(value),
            4 => self.front.forge_rsp_prod(value),
            5 => self.consume(value % 100),
            6 => self.answer(value),
            _ => self.final_check(),
        }
    }

    fn show(&mut self, req_prod: u32) {
        self.req_prod = req_prod;
        self.front.forge_req_prod(req_prod);
    }

    /// Whether the index that the page shows is one that an honest frontend can show.
    fn is_honest(&self) -> bool {
        let room = self.front.size() - self.consumed.wrapping_sub(self.answered);
        self.req_prod.wrapping_sub(self.consumed) <= room
    }

    fn check<T>(&mut self, result: Result<T, RingError>) -> Option<T> {
        self.broken |= !self.is_honest();
        assert_eq!(result.is_err(), self.broken);
        result.ok()
    }

    fn consume(&mut self, most: u32) {
        let unconsumed = self.back.unconsumed();
        let Some(waiting) = self.check(unconsumed) else {
            return;
        };
        assert_eq!(waiting, self.req_prod.wrapping_sub(self.consumed));
        for n in 0..waiting.min(most) {
            let sent = [n as u8 ^ self.consumed as u8; 3000];
            let sent = &sent[..self.entry_size];
            self.front.write_slot(self.consumed, sent);
            let mut buf = vec![0; self.entry_size];
            assert_eq!(self.back.next_request(&mut buf), Ok(true));
            assert_eq!(buf, sent);
            self.consumed = self.consumed.wrapping_add(1);
        }
        assert!(self.back.in_flight() <= self.front.size());
    }

    fn answer(&mut self, value: u32) {
        for _ in 0..self.back.in_flight().min(value % 100) {
            let response = [value as u8, self.answered as u8];
            self.back.put_response(&response);
            let mut seen = [0; 2];
            self.front.read_slot(self.answered, &mut seen);
            assert_eq!(seen, response);
            self.answered = self.answered.wrapping_add(1);
        }
        if self.back.push_responses() {
            assert_eq!(self.front.rsp_prod(), self.answered);
        }
    }

    fn final_check(&mut self) {
        let result = self.back.final_check();
        if let Some(more) = self.check(result) {
            assert_eq!(more, self.req_prod != self.consumed);
            assert!(more || self.front.req_event() == self.consumed.wrapping_add(1));
        }
    }
}
