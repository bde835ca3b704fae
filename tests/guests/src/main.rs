//! Under construction.
#![cfg_attr(not(test), no_std, no_main)]
#[cfg(test)] fn main(){}
