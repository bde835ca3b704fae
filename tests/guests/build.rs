//! Link arguments of the PV kernel; nothing for the host.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=pvtest.ld");
    let image = std::env::var_os("CARGO_FEATURE_IMAGE").is_some();
    let bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if image && bare {
        let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo:rustc-link-arg-bins=-T{dir}/pvtest.ld");
        for arg in ["--no-pie", "-zmax-page-size=4096", "--build-id=none"] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
