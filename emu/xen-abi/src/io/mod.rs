//! Headers of `xen/include/public/io/`: shared pages between frontends and
//! backends.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod protocols;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
