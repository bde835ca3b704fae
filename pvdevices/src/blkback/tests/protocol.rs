//! Entries of both layouts against the structures of the header.

use xenner_xen_abi::io::blkif::{
    BLKIF_DISCARD_SECURE, BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT, BLKIF_OP_WRITE, BlkifRequest,
    BlkifRequestDiscard, BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse,
    BlkifX86_32Request, BlkifX86_32RequestDiscard, BlkifX86_32RequestIndirect, BlkifX86_32Response,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::protocol::{Abi, Body, DataOp, MAX_DIRECT, MAX_ENTRY, Request, response};

fn decode(entry: &(impl IntoBytes + Immutable), abi: Abi) -> Request {
    let mut bytes = [0xee; MAX_ENTRY];
    bytes[..entry.as_bytes().len()].copy_from_slice(entry.as_bytes());
    Request::decode(&bytes, abi)
}

fn segments() -> [BlkifRequestSegment; MAX_DIRECT] {
    std::array::from_fn(|n| BlkifRequestSegment {
        gref: 1000 + n as u32,
        first_sect: n as u8,
        last_sect: 2 * n as u8,
        pad: 0xeeee,
    })
}

fn check_data(request: &Request) {
    assert_eq!(
        (request.id, request.op),
        (0x0123_4567_89ab_cdef, BLKIF_OP_WRITE)
    );
    let Body::Direct {
        op,
        sector,
        count,
        segments: found,
    } = &request.body
    else {
        panic!("{request:?}");
    };
    assert_eq!(
        (*op, *sector, *count),
        (DataOp::Write, 0xfedc_ba98_7654_3210, 200)
    );
    for (found, wanted) in found.iter().zip(segments()) {
        assert_eq!(found.gref, wanted.gref);
        assert_eq!(
            (found.first_sect, found.last_sect),
            (wanted.first_sect, wanted.last_sect)
        );
    }
}

#[test]
fn data_requests_of_both_layouts() {
    let wide = BlkifRequest {
        operation: BLKIF_OP_WRITE,
        nr_segments: 200,
        handle: 7,
        pad: u32::MAX,
        id: 0x0123_4567_89ab_cdef,
        sector_number: 0xfedc_ba98_7654_3210,
        seg: segments(),
    };
    check_data(&decode(&wide, Abi::X86_64));
    let narrow = BlkifX86_32Request {
        operation: wide.operation,
        nr_segments: wide.nr_segments,
        handle: 7,
        id: wide.id,
        sector_number: wide.sector_number,
        seg: wide.seg,
    };
    check_data(&decode(&narrow, Abi::X86_32));
    assert_eq!(Abi::X86_64.entry_size(), size_of::<BlkifRequest>());
    assert_eq!(Abi::X86_32.entry_size(), size_of::<BlkifX86_32Request>());
}

#[test]
fn discards_of_both_layouts() {
    let wide = BlkifRequestDiscard {
        operation: BLKIF_OP_DISCARD,
        flag: BLKIF_DISCARD_SECURE,
        id: 5,
        sector_number: 1 << 40,
        nr_sectors: u64::MAX,
        ..Default::default()
    };
    let narrow = BlkifX86_32RequestDiscard {
        operation: wide.operation,
        flag: wide.flag,
        handle: 0,
        id: wide.id,
        sector_number: wide.sector_number,
        nr_sectors: wide.nr_sectors,
    };
    for request in [decode(&wide, Abi::X86_64), decode(&narrow, Abi::X86_32)] {
        assert_eq!((request.id, request.op), (5, BLKIF_OP_DISCARD));
        let body = Body::Discard {
            sector: 1 << 40,
            count: u64::MAX,
            secure: true,
        };
        assert_eq!(request.body, body);
    }
}

#[test]
fn indirect_requests_of_both_layouts() {
    let pages = [1, 2, 3, 4, 5, 6, 7, u32::MAX];
    let wide = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: BLKIF_OP_WRITE,
        nr_segments: 0x1234,
        id: 9,
        sector_number: 77,
        handle: 0xffff,
        pad2: 0xffff,
        indirect_grefs: pages,
        ..Default::default()
    };
    let narrow = BlkifX86_32RequestIndirect {
        operation: wide.operation,
        indirect_op: wide.indirect_op,
        nr_segments: wide.nr_segments,
        id: wide.id,
        sector_number: wide.sector_number,
        handle: 0xffff,
        pad: 0xffff,
        indirect_grefs: pages,
        pad2: 0,
    };
    for request in [decode(&wide, Abi::X86_64), decode(&narrow, Abi::X86_32)] {
        // The response names what the request does.
        assert_eq!((request.id, request.op), (9, BLKIF_OP_WRITE));
        let op = Some(DataOp::Write);
        let body = Body::Indirect {
            op,
            sector: 77,
            count: 0x1234,
            pages,
        };
        assert_eq!(request.body, body);
    }
}

#[test]
fn only_reads_and_writes_are_indirect() {
    for indirect_op in 0..=255 {
        let operation = BLKIF_OP_INDIRECT;
        let entry = BlkifRequestIndirect {
            operation,
            indirect_op,
            ..Default::default()
        };
        let Body::Indirect { op, .. } = decode(&entry, Abi::X86_64).body else {
            panic!("{indirect_op}");
        };
        assert_eq!(op.is_some(), indirect_op < 2);
    }
}

#[test]
fn responses_are_those_of_the_header() {
    let bytes = response(0x0123_4567_89ab_cdef, 3, -2);
    let mut padded = [0; size_of::<BlkifResponse>()];
    padded[..12].copy_from_slice(&bytes);
    let wide = BlkifResponse::read_from_bytes(&padded).unwrap();
    assert_eq!(
        (wide.id, wide.operation, wide.status),
        (0x0123_4567_89ab_cdef, 3, -2)
    );
    let narrow = BlkifX86_32Response::read_from_bytes(&bytes).unwrap();
    let (id, operation, status) = (narrow.id, narrow.operation, narrow.status);
    assert_eq!((id, operation, status), (0x0123_4567_89ab_cdef, 3, -2));
}
