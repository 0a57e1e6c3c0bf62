//! Reports how far the layers of an image are fetched.

use std::{
    fmt,
    io::{self, Read},
    sync::Arc,
};

/// A layer that is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    /// The image, as the user named it.
    pub image: String,
    /// The number of the layer, from 1 on.
    pub layer: usize,
    /// The number of all layers of the image.
    pub layers: usize,
    /// The bytes of the layer that were read.
    pub done: u64,
    /// The bytes of the layer, as it is transferred.
    pub size: u64,
}

/// Gets each report. It must not block.
#[derive(Clone)]
pub(super) struct OnFetching(Arc<dyn Fn(&Fetching) + Send + Sync>);

impl OnFetching {
    pub(super) fn new(report: impl Fn(&Fetching) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Reports what is read of a layer.
    pub(super) fn counted<R: Read>(&self, blob: R, at: Fetching) -> impl Read + use<R> {
        (self.0)(&at);
        Counted { blob, at, on: self.clone() }
    }
}

impl Default for OnFetching {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for OnFetching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFetching")
    }
}

struct Counted<R> {
    blob: R,
    at: Fetching,
    on: OnFetching,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.blob.read(buffer)?;
        self.at.done += count as u64;
        (self.on.0)(&self.at);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_is_read_of_a_layer_is_reported() {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let to = reports.clone();
        let on = OnFetching::new(move |at| to.lock().unwrap().push((at.done, at.size)));
        let image = "image".to_owned();
        let at = Fetching { image, layer: 1, layers: 2, done: 0, size: 5 };
        let mut text = String::new();
        on.counted(&b"bytes"[..], at).read_to_string(&mut text).unwrap();
        assert_eq!(text, "bytes");
        let reports = reports.lock().unwrap();
        assert_eq!((reports.first(), reports.last()), (Some(&(0, 5)), Some(&(5, 5))));
    }
}
