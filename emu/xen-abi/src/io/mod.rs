//! Headers of `xen/include/public/io/`: shared pages between frontends and
//! backends. The device protocols themselves live with their backends.

pub mod console;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
