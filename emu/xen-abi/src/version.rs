//! `version.h`: `xen_version` commands and their results.

use core::mem::offset_of;

/// Version as (major << 16) + minor.
pub const XENVER_VERSION: u32 = 0;
/// Text.
pub const XENVER_EXTRAVERSION: u32 = 1;
/// How it was built.
pub const XENVER_COMPILE_INFO: u32 = 2;
/// Kinds of guests.
pub const XENVER_CAPABILITIES: u32 = 3;
/// Text.
pub const XENVER_CHANGESET: u32 = 4;
/// Start of Xen's addresses.
pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
/// Feature bits.
pub const XENVER_GET_FEATURES: u32 = 6;
/// Page size.
pub const XENVER_PAGESIZE: u32 = 7;
/// The domain's UUID.
pub const XENVER_GUEST_HANDLE: u32 = 8;
/// Xen's command line.
pub const XENVER_COMMANDLINE: u32 = 9;
/// Build id.
pub const XENVER_BUILD_ID: u32 = 10;

/// Bytes of `XENVER_EXTRAVERSION`.
pub const XEN_EXTRAVERSION_LEN: usize = 16;
/// Bytes of `XENVER_CAPABILITIES`.
pub const XEN_CAPABILITIES_INFO_LEN: usize = 1024;
/// Bytes of `XENVER_CHANGESET`.
pub const XEN_CHANGESET_INFO_LEN: usize = 64;
/// Bytes of `XENVER_COMMANDLINE`.
pub const XEN_COMMANDLINE_LEN: usize = 1024;

/// Result of `XENVER_COMPILE_INFO`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CompileInfo {
    /// Compiler.
    pub compiler: [u8; 64],
    /// Who.
    pub compile_by: [u8; 16],
    /// Where.
    pub compile_domain: [u8; 32],
    /// When.
    pub compile_date: [u8; 32],
}

impl Default for CompileInfo {
    fn default() -> Self {
        Self {
            compiler: [0; 64],
            compile_by: [0; 16],
            compile_domain: [0; 32],
            compile_date: [0; 32],
        }
    }
}

const _: () = assert!(size_of::<CompileInfo>() == 144);
const _: () = assert!(offset_of!(CompileInfo, compiler) == 0);
const _: () = assert!(offset_of!(CompileInfo, compile_by) == 64);
const _: () = assert!(offset_of!(CompileInfo, compile_domain) == 80);
const _: () = assert!(offset_of!(CompileInfo, compile_date) == 112);

/// Result of `XENVER_PLATFORM_PARAMETERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PlatformParameters {
    /// Start of Xen's addresses.
    pub virt_start: u64,
}

const _: () = assert!(size_of::<PlatformParameters>() == 8);
const _: () = assert!(offset_of!(PlatformParameters, virt_start) == 0);

/// Argument of `XENVER_GET_FEATURES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FeatureInfo {
    /// Which 32 features.
    pub submap_idx: u32,
    /// Out: their bits.
    pub submap: u32,
}

const _: () = assert!(size_of::<FeatureInfo>() == 8);
const _: () = assert!(offset_of!(FeatureInfo, submap_idx) == 0);
const _: () = assert!(offset_of!(FeatureInfo, submap) == 4);
