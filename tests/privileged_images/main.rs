//! Images that `ovl` writes and reads, beside podman, buildah and skopeo, and the commands that show a store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod kills;
mod peers;
mod place;
mod round_trip;
mod shown;
#[path = "../support/unmount.rs"]
mod unmount;
