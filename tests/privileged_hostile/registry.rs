//! A registry that serves what a hostile tenant would serve, and as slowly.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Uri, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use ovl::digest::Digest;
use serde_json::{Value, json};
use tokio::time::sleep;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A slow blob is sent in chunks of so many bytes, one per interval: 96 KiB a minute.
const SLOW_CHUNK: usize = 1 << 10;
const SLOW_INTERVAL: Duration = Duration::from_millis(640);

/// A blob in pieces. Many pieces may share their bytes.
#[derive(Clone)]
pub struct Blob {
    pub pieces: Vec<Bytes>,
    pub is_slow: bool,
}

impl Blob {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![bytes.into()], is_slow: false }
    }

    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.pieces.concat())
    }
}

/// Content type and content by path.
type Contents = HashMap<String, (String, Blob)>;

#[derive(Clone, Default)]
pub struct Registry {
    contents: Arc<Mutex<Contents>>,
    pub host: String,
}

impl Registry {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let registry = Self { host, ..Self::default() };
        let server = registry.clone();
        let app = Router::new().fallback(move |uri: Uri| async move { server.respond(uri.path()) });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        registry
    }

    fn respond(&self, path: &str) -> Response {
        let found = self.contents.lock().unwrap().get(path).cloned();
        let Some((kind, blob)) = found else {
            return Response::builder().status(404).body(Body::empty()).unwrap();
        };
        let response = Response::builder().header(CONTENT_TYPE, kind);
        if !blob.is_slow {
            let pieces = stream::iter(blob.pieces.into_iter().map(Ok::<_, std::io::Error>));
            return response.body(Body::from_stream(pieces)).unwrap();
        }
        let whole = blob.pieces.concat();
        let chunks: Vec<_> = whole.chunks(SLOW_CHUNK).map(Bytes::copy_from_slice).collect();
        let chunks = stream::iter(chunks).then(|chunk| async {
            sleep(SLOW_INTERVAL).await;
            Ok::<_, std::io::Error>(chunk)
        });
        response.body(Body::from_stream(chunks)).unwrap()
    }

    fn put(&self, path: String, kind: &str, blob: Blob) {
        self.contents.lock().unwrap().insert(path, (kind.to_owned(), blob));
    }

    pub fn put_manifest(&self, name: &str, kind: &str, bytes: Bytes) {
        let blob = Blob { pieces: vec![bytes], is_slow: false };
        let digest = blob.digest();
        for tag in ["1".to_owned(), digest.to_string()] {
            self.put(format!("/v2/{name}/manifests/{tag}"), kind, blob.clone());
        }
    }

    fn put_blob(&self, name: &str, kind: &str, digest: Digest, blob: Blob) -> Value {
        let size = blob.len();
        self.put(format!("/v2/{name}/blobs/{digest}"), "application/octet-stream", blob);
        json!({ "mediaType": kind, "digest": digest, "size": size })
    }

    /// Pushes an image of one layer, with a config of this text and the diff ID. Returns its reference.
    pub fn push(
        &self,
        name: &str,
        (kind, layer): (&str, Blob),
        diff_id: Digest,
        config: &str,
    ) -> String {
        let config = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{config},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{diff_id}\"]}}}}"
        );
        let config = Blob::of(config.into_bytes());
        let digest = layer.digest();
        let layer = self.put_blob(name, kind, digest, layer);
        let config = self.put_blob(name, CONFIG, config.digest(), config);
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.put_manifest(name, MANIFEST, manifest.to_string().into());
        self.reference(name)
    }

    /// Pushes an image of one plain tar.
    pub fn push_tar(&self, name: &str, tar: Vec<u8>, config: &str) -> String {
        let layer = Blob::of(tar);
        let diff_id = layer.digest();
        self.push(name, (TAR, layer), diff_id, config)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.host)
    }
}

/// A tar of one file.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header(content.len() as u64), name, content).unwrap();
    tar.into_inner().unwrap()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// A gzip layer with one file of `size` bytes, and its diff ID. The layer unpacks to about 700 times its size.
pub fn compressible_layer(name: &str, size: u64, byte: u8) -> (Blob, Digest) {
    const MEMBER: usize = 16 << 20;
    const NOISE: usize = 8 << 10;
    let mut header = header(size);
    header.set_path(name).unwrap();
    header.set_cksum();
    let gzip = |bytes: &[u8]| -> Bytes {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap().into()
    };
    let (mut member, end) = (vec![byte; MEMBER], [0; 1024]);
    member[..NOISE].copy_from_slice(&noise(NOISE));
    let count = size as usize / MEMBER;
    let packed = gzip(&member);
    let mut pieces = vec![gzip(header.as_bytes())];
    pieces.extend(std::iter::repeat_n(packed, count));
    pieces.push(gzip(&end));
    let mut hasher = ovl::digest::Digester::default();
    hasher.update(header.as_bytes());
    (0..count).for_each(|_| hasher.update(&member));
    hasher.update(&end);
    (Blob { pieces, is_slow: false }, hasher.finish())
}

/// Bytes that do not compress.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}
