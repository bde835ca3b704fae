//! Bounds-checked little-endian reads from a byte slice.

/// The 16-bit value at `at`.
pub(super) fn le_u16(data: &[u8], at: usize) -> Option<u16> {
    let field = data.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

/// The 32-bit value at `at`.
pub(super) fn le_u32(data: &[u8], at: usize) -> Option<u32> {
    let field = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}
