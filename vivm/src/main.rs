//! `xenner-vivm`: makes a libvirt domain one that runs under xenner, and lets its owner edit it.
//!
//! It talks to libvirt by `virsh`. The conversion itself is in [`convert`] and touches nothing.

mod app;
mod args;
mod convert;
mod editor;
mod edits;
mod error;
mod places;
mod report;
mod virsh;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match app::run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xenner-vivm: {}", report::failure(&error));
            ExitCode::FAILURE
        }
    }
}
