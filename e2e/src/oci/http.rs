//! As much HTTP as a registry on this machine needs: one request for each connection, as version
//! 1.0, so the body ends with the connection and is never chunked.
//!
//! Deliberately absent: encryption, redirects, retries. The harness runs the other end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Read timeout.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest line of a head that is read.
const LONGEST_LINE: u64 = 64 * 1024;

/// The head of a request or of a response: its first line, and its fields as they were written.
#[derive(Debug, Default)]
pub struct Head {
    /// The words of the first line.
    pub start_line: Vec<String>,
    /// Names and values.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Reads one. `None` if the connection ended before it.
    ///
    /// # Errors
    /// The connection broke, or the text is not a head.
    pub fn read(from: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = || -> Result<String> {
            let mut text = String::new();
            from.by_ref().take(LONGEST_LINE).read_line(&mut text).context("reading a head")?;
            Ok(text.trim_end().to_owned())
        };
        let first = line()?;
        if first.is_empty() {
            return Ok(None);
        }
        let start_line = first.splitn(3, ' ').map(str::to_owned).collect();
        let mut head = Self { start_line, fields: Vec::new() };
        loop {
            let field = line()?;
            if field.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = field.split_once(':').context("a field without a colon")?;
            head.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }

    /// The value of a field. The case of its name does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A response, with its body still unread.
pub struct Response {
    /// The status.
    pub status: u16,
    /// The head.
    pub head: Head,
    /// The body.
    pub body: BufReader<TcpStream>,
}

impl Response {
    /// The whole body.
    ///
    /// # Errors
    /// The connection broke before its end.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes).context("reading a response's body")?;
        let whole = self.head.field("content-length").and_then(|length| length.parse().ok());
        ensure!(whole.is_none_or(|whole: usize| whole == bytes.len()), "the body broke off");
        Ok(bytes)
    }
}

/// Sends one request and reads the head of its response.
///
/// # Errors
/// The other end does not respond, or the response is not HTTP.
pub fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let request = || format!("{method} http://{to}{path}");
    let mut stream = TcpStream::connect_timeout(&to, SILENCE).with_context(request)?;
    stream.set_read_timeout(Some(SILENCE)).with_context(request)?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {to}\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).with_context(request)?;
    stream.write_all(body).with_context(request)?;
    let mut body = BufReader::with_capacity(1 << 18, stream);
    let head = Head::read(&mut body).with_context(request)?;
    let head = head.with_context(|| format!("{}: the connection ended", request()))?;
    let status = head.start_line.get(1).and_then(|word| word.parse().ok());
    Ok(Response {
        status: status.with_context(|| format!("{}: no status", request()))?,
        head,
        body,
    })
}

/// Reads the whole body of a request.
///
/// # Errors
/// The body is incomplete, or its chunks are invalid.
pub fn body(head: &Head, from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = head.field("content-length") {
        let length = length.parse::<u64>().context("a body's length")?;
        let read = from.take(length).read_to_end(&mut body).context("reading a body")?;
        ensure!(read as u64 == length, "a body broke off");
    } else if head.field("transfer-encoding").is_some() {
        while let chunk @ 1.. = chunk_length(from)? {
            let read = from.by_ref().take(chunk).read_to_end(&mut body)?;
            ensure!(read as u64 == chunk, "a body broke off");
            line(from)?;
        }
        line(from)?;
    }
    Ok(body)
}

/// The length of the next chunk (RFC 9112, 7.1). The last chunk is empty.
fn chunk_length(from: &mut impl BufRead) -> Result<u64> {
    let line = line(from)?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    match u64::from_str_radix(digits, 16) {
        Ok(length) => Ok(length),
        Err(_) => bail!("`{line}` is not the length of a chunk"),
    }
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    from.take(1024).read_line(&mut line).context("reading a chunk's line")?;
    Ok(line)
}

/// Responds to a request, and closes the connection after the response.
///
/// # Errors
/// The connection is closed.
pub fn respond(to: &mut impl Write, status: &str, fields: &str, body: &str) -> Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    );
    to.write_all(text.as_bytes()).context("writing a response")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_chunks_is_one_body() -> Result<()> {
        let head = |field: &str| Head {
            fields: vec![(field.to_owned(), "5".to_owned())],
            ..Head::default()
        };
        let mut chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n".as_slice();
        assert_eq!(body(&head("Transfer-Encoding"), &mut chunks)?, b"abcde");
        assert_eq!(body(&head("Content-Length"), &mut b"abcdefg".as_slice())?, b"abcde");
        assert!(body(&head("Content-Length"), &mut b"abc".as_slice()).is_err());
        assert!(body(&Head::default(), &mut b"abc".as_slice())?.is_empty());
        Ok(())
    }
}
