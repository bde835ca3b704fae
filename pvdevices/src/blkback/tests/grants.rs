//! Pages that are kept mapped: how many, how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::grants::Pages;
use crate::domain::{Access, Domain, GrantError};
use crate::mock::{GrantedPage, MockDomain};

const MOST: usize = 1056;
const MOMENT: Duration = Duration::from_millis(150);

fn granted(count: usize) -> (Arc<MockDomain>, Vec<GrantedPage>) {
    let domain = MockDomain::new(1, count);
    let pages = (0..count).map(|_| domain.granted_page(Access::Write));
    let pages = pages.collect();
    (domain, pages)
}

#[test]
fn as_many_are_kept_as_there_is_room_and_the_least_used_go_first() {
    let (domain, granted) = granted(MOST + 2);
    let start = Instant::now();
    let mut pages = Pages::new(domain.grants(), true, start);
    let in_use = pages.get(granted[0].gref(), true, start).unwrap();
    for (n, page) in granted[..MOST].iter().enumerate() {
        let now = start + Duration::from_micros(n as u64);
        drop(pages.get(page.gref(), n % 2 == 0, now).unwrap());
    }
    assert_eq!((pages.kept(), domain.maps()), (MOST, MOST as u64));
    // No purge without need.
    let later = start + MOMENT;
    pages.purge(later);
    assert_eq!(pages.kept(), MOST);
    // One more serves its request and is given back.
    let more = pages.get(granted[MOST].gref(), true, later).unwrap();
    assert_eq!(pages.kept(), MOST);
    drop(more);
    assert!(!domain.mapped().contains(&granted[MOST].gref()));
    // Room is made, not too often, and not of what is in use.
    pages.purge(later + MOMENT / 2);
    assert_eq!(pages.kept(), MOST);
    pages.purge(later + MOMENT);
    assert_eq!(pages.kept(), MOST - 53);
    let mapped = domain.mapped();
    assert!(mapped.contains(&granted[0].gref()));
    assert!(
        granted[1..54]
            .iter()
            .all(|page| !mapped.contains(&page.gref()))
    );
    assert!(
        granted[54..MOST]
            .iter()
            .all(|page| mapped.contains(&page.gref()))
    );
    let more = pages.get(granted[MOST].gref(), true, later).unwrap();
    assert_eq!(pages.kept(), MOST - 52);
    drop((more, in_use, pages));
    domain.assert_released();
}

#[test]
fn what_is_not_used_for_a_minute_is_given_back() {
    let (domain, granted) = granted(3);
    let start = Instant::now();
    let mut pages = Pages::new(domain.grants(), true, start);
    for page in &granted {
        drop(pages.get(page.gref(), true, start).unwrap());
    }
    let minute = start + Duration::from_secs(60);
    drop(pages.get(granted[1].gref(), true, minute - MOMENT).unwrap());
    pages.purge(minute - MOMENT);
    assert_eq!(pages.kept(), 3);
    pages.purge(minute);
    assert_eq!(domain.mapped(), [granted[1].gref()]);
    drop(pages);
}

#[test]
fn what_cannot_be_kept_is_mapped_for_its_request() {
    let domain = MockDomain::new(1, 2);
    let page = domain.granted_page(Access::Read);
    let now = Instant::now();
    let mut pages = Pages::new(domain.grants(), true, now);
    let grant = pages.get(page.gref(), false, now).unwrap();
    assert!(!grant.is_writable());
    let refused = pages.get(page.gref(), true, now).unwrap_err();
    assert_eq!(refused, GrantError::ReadOnly(page.gref()));
    assert_eq!(pages.kept(), 0);
    drop((grant, pages));
    domain.assert_released();
}
