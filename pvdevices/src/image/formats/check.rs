//! The tables of a qcow2 image before it is written: each lies in the file, in a place of its own,
//! and is counted as used.
//!
//! The format library allocates by the image's own reference counts. In an image that counts its
//! tables as free they would be given away as room for data; QEMU finds such images when it meets
//! them, here they are refused from the beginning. What the L2 tables say of data is not looked at:
//! that would mean to read all of them.

use std::collections::HashSet;
use std::io;

use super::super::buffers::AlignedBuffer;
use super::super::file::HostFile;
use super::header::Header;

/// Bits of a table's entry that are an offset: the lowest nine of a refcount table's are reserved,
/// and an L1 entry has flags at both ends (QEMU's `docs/interop/qcow2.txt`).
const REFBLOCK_OFFSET: u64 = !0x1ff;
const L2_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What is wrong with the tables, if anything is.
pub(in super::super) fn tables(
    file: &HostFile,
    header: &Header,
) -> io::Result<Result<(), &'static str>> {
    let mut tables = Tables::new(file, header);
    let refblocks = tables.entries(header.reftable(), REFBLOCK_OFFSET)?;
    let l2_tables = tables.entries(header.l1_table(), L2_OFFSET)?;
    tables.refblocks.clone_from(&refblocks);
    let fixed = [(0, 1), header.reftable(), header.l1_table()];
    let single = refblocks.iter().chain(&l2_tables).filter(|at| **at != 0);
    let all = fixed.into_iter().chain(single.map(|at| (*at, 1)));
    for (offset, bytes) in all {
        if let Err(what) = tables.take(offset, bytes) {
            return Ok(Err(what));
        }
    }
    tables.are_counted()
}

struct Tables<'a> {
    file: &'a HostFile,
    cluster: u64,
    /// Bits of a reference count.
    width: u64,
    refblocks: Vec<u64>,
    /// Clusters that have tables.
    taken: HashSet<u64>,
}

impl<'a> Tables<'a> {
    fn new(file: &'a HostFile, header: &Header) -> Self {
        Self {
            file,
            cluster: u64::from(header.cluster_size()),
            width: header.refcount_bits(),
            refblocks: Vec::new(),
            taken: HashSet::new(),
        }
    }

    fn read(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        // The header's limits keep this far below what a usize can hold.
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        let align = self.file.limits().memory_align as usize;
        let mut buffer = AlignedBuffer::new(len, align);
        self.file.read(offset, &[buffer.head(len)])?;
        Ok(buffer.bytes().to_vec())
    }

    /// The offsets in a table.
    fn entries(&self, (offset, bytes): (u64, u64), mask: u64) -> io::Result<Vec<u64>> {
        let table = self.read(offset, bytes)?;
        let (entries, _) = table.as_chunks::<8>();
        let offset = |entry: &[u8; 8]| u64::from_be_bytes(*entry) & mask;
        Ok(entries.iter().map(offset).collect())
    }

    /// Notes that there is a table; it must lie in the file, where nothing else does.
    fn take(&mut self, offset: u64, bytes: u64) -> Result<(), &'static str> {
        if bytes == 0 {
            return Ok(());
        }
        let first = offset / self.cluster;
        let end = offset.saturating_add(bytes);
        if !offset.is_multiple_of(self.cluster) || end > self.file.size() {
            return Err("has tables outside the file");
        }
        for cluster in first..end.div_ceil(self.cluster) {
            if !self.taken.insert(cluster) {
                return Err("has tables on top of each other");
            }
        }
        Ok(())
    }

    /// Every cluster with a table is counted.
    fn are_counted(&self) -> io::Result<Result<(), &'static str>> {
        const FREE: &str = "counts its tables as free";
        let per_block = self.cluster * 8 / self.width;
        let mut clusters: Vec<u64> = self.taken.iter().copied().collect();
        clusters.sort_unstable();
        for group in clusters.chunk_by(|a, b| a / per_block == b / per_block) {
            let index = usize::try_from(group[0] / per_block).unwrap_or(usize::MAX);
            let Some(refblock) = self.refblocks.get(index).filter(|at| **at != 0) else {
                return Ok(Err(FREE));
            };
            let counts = self.read(*refblock, self.cluster)?;
            if group
                .iter()
                .any(|cluster| is_zero(&counts, cluster % per_block, self.width))
            {
                return Ok(Err(FREE));
            }
        }
        Ok(Ok(()))
    }
}

/// Whether a reference count of `width` bits is zero: smaller than a byte they start at its lowest
/// bit, larger ones are big-endian, which makes no difference here.
fn is_zero(counts: &[u8], index: u64, width: u64) -> bool {
    let bit = index * width;
    let (byte, bits) = ((bit / 8) as usize, width.min(8));
    let mask = (0xff_u8 >> (8 - bits)) << (bit % 8);
    let bytes = counts.get(byte..byte + (width / 8).max(1) as usize);
    bytes.is_none_or(|bytes| bytes.iter().all(|byte| byte & mask == 0))
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn counts_of_every_width() {
        assert!(is_zero(&[0b1111_0111], 3, 1) && !is_zero(&[0b0000_1000], 3, 1));
        assert!(is_zero(&[0, 0b1100_1111], 6, 2) && !is_zero(&[0, 0b0010_0000], 6, 2));
        assert!(is_zero(&[0x0f], 1, 4) && !is_zero(&[0x10], 1, 4));
        assert!(is_zero(&[1, 0], 1, 8) && !is_zero(&[0, 1], 1, 8));
        assert!(is_zero(&[1, 1, 0, 0], 1, 16) && !is_zero(&[0, 0, 1, 0], 1, 16));
        assert!(!is_zero(&[0, 0, 0, 0, 0, 0, 0, 1], 0, 64));
        // What is not there is not counted.
        assert!(is_zero(&[1], 9, 8));
    }
}
