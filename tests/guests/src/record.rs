//! Records of one page each that are written all over a disk: where a record
//! lies and what it holds follows from its number alone, so that the reader of
//! the disk's image can tell which are there, whole.

/// Bytes of a record.
pub const SIZE: usize = 4096;

/// How many records a disk of that many 512-byte sectors takes: a power of two.
#[must_use]
pub const fn blocks(sectors: u64) -> u64 {
    let pages = sectors / 8;
    if pages == 0 { 0 } else { 1 << pages.ilog2() }
}

/// In which block of `blocks` (a power of two) record `number` lies: an odd
/// factor sends different records to different blocks.
#[must_use]
pub const fn place(number: u64, blocks: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9) & (blocks - 1)
}

/// A number that looks like chance.
#[must_use]
pub const fn scatter(number: u64) -> u64 {
    let a = number
        .wrapping_add(0x9e37_79b9_7f4a_7c15)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (a ^ a >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) >> 13
}

/// What record `number` holds, as little-endian words. Its first word is never 0.
pub fn words(number: u64) -> impl Iterator<Item = u64> {
    let first = core::iter::once(number + 1);
    first.chain((1..SIZE as u64 / 8).map(move |i| scatter(number << 9 | i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_a_block_of_its_own() {
        let blocks = blocks(8 * 1000);
        assert_eq!(blocks, 512);
        let mut seen = [false; 512];
        for number in 0..blocks {
            let place = &mut seen[usize::try_from(place(number, blocks)).unwrap()];
            assert!(!core::mem::replace(place, true));
        }
    }

    #[test]
    fn records_differ_in_every_word() {
        assert_eq!(words(3).count() * 8, SIZE);
        assert!(words(3).zip(words(4)).all(|(a, b)| a != b));
        assert!(words(0).next().is_some_and(|first| first != 0));
    }
}
