//! The ring-0 image: nothing but an anchor for the library's entry code.
#![no_std]
#![no_main]

use xenner_emu as _;
