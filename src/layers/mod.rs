//! The node's store of layers: staged, renamed into place, opened once, never changed.
//!
//! ```text
//! <root>/                             0700: layers hold setuid programs (CVE-2021-41103)
//!   lock                              held by the one process that may write here
//!   store.json                        format and id
//!   layers/<diff id, hex>/layer.erofs   the layer as an EROFS image
//!   layers/<diff id, hex>/layer.json    what it is and where it came from
//!   staging/<n>/                      a layer being made; emptied when the store is opened
//!   images/<manifest digest, hex>.json  which layers an image has, and the references that mean it
//!   volumes/                          the room of that name
//! ```
//!
//! Files are the truth: there is no database that could drift from them. A layer is there when its folder is there, because
//! the folder is renamed into place after everything in it is on disk (one fsync of the image, one of its description);
//! a kill or a power cut before that leaves only staging. The roots that keep a layer alive are the records of volumes and images.
//!
//! May use: changeset, sys
//!
//! Deliberately absent: registries and credentials (a layer arrives as bytes), and whatever an upper is.

mod add;
mod error;
mod images;
mod lower;
mod store;
#[cfg(test)]
mod tests;

pub use add::NewLayer;
pub use error::{AddError, ImagesError, LowerError, OpenError};
pub use images::ImageRecord;
pub use lower::Lower;
pub use store::{Origin, Store};
