//! What is looked at in a qcow2 header before the format library sees it: QEMU's
//! `docs/interop/qcow2.txt`, section 'Header'.
//!
//! The library reads what it knows and trusts sizes that QEMU limits; an image is whatever somebody
//! downloaded.

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Fields that every version has.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in super::super) struct Header {
    magic: [u8; 4],
    version: U32,
    backing_file_offset: U64,
    backing_file_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_table_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
    /// Version 3 from here on.
    incompatible_features: U64,
    compatible_features: U64,
    autoclear_features: U64,
    refcount_order: U32,
    header_length: U32,
}

/// Bytes of [`Header`].
pub(in super::super) const HEADER_BYTES: usize = 104;
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// Limits of QEMU's `block/qcow2.h`.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
/// Incompatible features: the image was not closed; it is known to be damaged; data are in another
/// file; clusters are compressed otherwise; L2 entries have subclusters.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;

impl Header {
    /// The header at the beginning of an image.
    pub(in super::super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        (header.magic == *b"QFI\xfb").then_some(header)
    }

    /// Bytes of a cluster.
    pub(in super::super) fn cluster_size(&self) -> u32 {
        1 << self.cluster_bits.get().clamp(9, 21)
    }

    /// Offset and bytes of the refcount table.
    pub(super) fn reftable(&self) -> (u64, u64) {
        let bytes = u64::from(self.refcount_table_clusters.get()) * u64::from(self.cluster_size());
        (self.refcount_table_offset.get(), bytes)
    }

    /// Offset and bytes of the L1 table.
    pub(super) fn l1_table(&self) -> (u64, u64) {
        let bytes = u64::from(self.l1_size.get()) * 8;
        (self.l1_table_offset.get(), bytes)
    }

    /// Bits of a reference count.
    pub(super) fn refcount_bits(&self) -> u64 {
        match self.version.get() {
            2 => 16,
            _ => 1 << self.refcount_order.get().min(6),
        }
    }

    /// What speaks against opening the image: what is wrong, and the way out.
    pub(in super::super) fn check(&self, write: bool) -> Result<(), (&'static str, &'static str)> {
        const DAMAGED: &str = "qemu-img check tells more";
        const CONVERT: &str = "convert it by qemu-img convert";
        if !(2..=3).contains(&self.version.get()) {
            return Err(("has an unknown version", CONVERT));
        }
        if !CLUSTER_BITS.contains(&self.cluster_bits.get()) {
            return Err(("has an impossible cluster size", DAMAGED));
        }
        if self.crypt_method.get() != 0 {
            return Err(("is encrypted, which is not supported", CONVERT));
        }
        self.check_tables().map_err(|what| (what, DAMAGED))?;
        let features = match self.version.get() {
            2 => 0,
            _ => self.incompatible_features.get(),
        };
        if features & CORRUPT != 0 && write {
            return Err(("is marked as corrupt", "repair it by qemu-img check -r all"));
        }
        if features & DIRTY != 0 {
            return Err((
                "was not closed cleanly",
                "repair it by qemu-img check -r all",
            ));
        }
        if features & (COMPRESSION | SUBCLUSTERS) != 0 {
            return Err((
                "has zstd compression or subclusters, which are not supported",
                CONVERT,
            ));
        }
        if features & !(CORRUPT | DATA_FILE) != 0 {
            return Err(("has unknown incompatible features", CONVERT));
        }
        Ok(())
    }

    fn check_tables(&self) -> Result<(), &'static str> {
        let cluster = u64::from(self.cluster_size());
        let l1_bytes = u64::from(self.l1_size.get()) * 8;
        // An L2 table is one cluster of 8-byte entries.
        let covered = u64::from(self.l1_size.get()).saturating_mul(cluster / 8 * cluster);
        if l1_bytes > MAX_L1_BYTES || covered < self.size.get() {
            return Err("has an L1 table that does not suit its size");
        }
        let reftable = u64::from(self.refcount_table_clusters.get()) * cluster;
        if reftable == 0 || reftable > MAX_REFTABLE_BYTES {
            return Err("has an impossible refcount table");
        }
        let place = |offset: U64| offset.get().is_multiple_of(cluster) && offset.get() < 1 << 56;
        if !place(self.l1_table_offset) || !place(self.refcount_table_offset) {
            return Err("has tables in impossible places");
        }
        if self.version.get() == 3 && self.refcount_order.get() > 6 {
            return Err("has impossible reference counts");
        }
        if self.nb_snapshots.get() > MAX_SNAPSHOTS {
            return Err("has too many snapshots");
        }
        if self.backing_file_size.get() > 1023 {
            return Err("has too long a backing file name");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut Header)) -> Result<(), (&'static str, &'static str)> {
        let mut header = Header {
            magic: *b"QFI\xfb",
            version: 3.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: 16.into(),
            size: (1 << 30).into(),
            crypt_method: 0.into(),
            l1_size: 2.into(),
            l1_table_offset: (3 << 16).into(),
            refcount_table_offset: (1 << 16).into(),
            refcount_table_clusters: 1.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: 0.into(),
            compatible_features: 0.into(),
            autoclear_features: 0.into(),
            refcount_order: 4.into(),
            header_length: 104.into(),
        };
        change(&mut header);
        header.check(true)
    }

    #[test]
    fn impossible_headers_are_told_apart() {
        assert_eq!(header(|_| {}), Ok(()));
        let what = |change: fn(&mut Header)| header(change).unwrap_err().0;
        assert!(what(|h| h.crypt_method = 1.into()).contains("encrypted"));
        assert!(what(|h| h.version = 4.into()).contains("version"));
        assert!(what(|h| h.cluster_bits = 30.into()).contains("cluster size"));
        assert!(what(|h| h.l1_size = 1.into()).contains("L1 table"));
        assert!(what(|h| h.l1_size = u32::MAX.into()).contains("L1 table"));
        assert!(what(|h| h.refcount_table_clusters = u32::MAX.into()).contains("refcount"));
        assert!(what(|h| h.refcount_order = 7.into()).contains("reference counts"));
        assert!(what(|h| h.l1_table_offset = 1.into()).contains("places"));
        assert!(what(|h| h.incompatible_features = DIRTY.into()).contains("cleanly"));
        assert!(what(|h| h.incompatible_features = CORRUPT.into()).contains("corrupt"));
        assert!(what(|h| h.incompatible_features = (1 << 4).into()).contains("subclusters"));
        assert!(what(|h| h.incompatible_features = (1 << 40).into()).contains("unknown"));
        assert_eq!(
            header(|h| h.incompatible_features = DATA_FILE.into()),
            Ok(())
        );
        assert!(Header::parse(&[0; 104]).is_none() && Header::parse(b"QFI\xfb").is_none());
    }
}
