//! A Redis server alone, spoken to as plainly as possible.

use std::path::Path;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Failure;

/// One connection: one request after the other.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(endpoint: &str) -> Result<Client, Failure> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: Vec::with_capacity(256) })
    }

    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        self.send(&[b"SET", &key, &value]).await?;
        match self.line().await?.as_slice() {
            b"+OK" => Ok(()),
            other => Err(format!("Redis answered {}", String::from_utf8_lossy(other)).into()),
        }
    }

    /// The value's length.
    pub(crate) async fn get(&mut self, key: Bytes) -> Result<Option<usize>, Failure> {
        self.send(&[b"GET", &key]).await?;
        let line = String::from_utf8(self.line().await?)?;
        let Some(length) = line.strip_prefix('$') else { return Err(format!("Redis answered {line}").into()) };
        let Ok(length) = length.parse::<usize>() else { return Ok(None) };
        self.take(length + 2).await?;
        Ok(Some(length))
    }

    async fn send(&mut self, words: &[&[u8]]) -> Result<(), Failure> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        Ok(self.stream.write_all(&request).await?)
    }

    /// What comes before the next end of a line.
    async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                let mut line = self.take(end + 2).await?;
                line.truncate(end);
                return Ok(line);
            }
            self.read().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < length {
            self.read().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err("Redis closed the connection".into()),
            _ => Ok(()),
        }
    }
}

/// The arguments of a server that syncs before it answers.
pub(crate) fn arguments(dir: &Path, port: u16) -> Vec<String> {
    let port = port.to_string();
    let dir = dir.display().to_string();
    let words = ["--bind", "127.0.0.1", "--port", &port, "--dir", &dir, "--save", "", "--appendonly", "yes"];
    words.into_iter().chain(["--appendfsync", "always"]).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn answers_are_read_to_their_end() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 27];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n-ERR no\r\n").await.unwrap();
            // Open until all was read.
            (stream, request)
        });
        let mut client = Client::connect(&endpoint).await.unwrap();
        client.put("k".into(), "v".into()).await.unwrap();
        let (_stream, request) = server.await.unwrap();
        assert_eq!(&request, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n");
        assert_eq!(client.get("k".into()).await.unwrap(), Some(3));
        assert_eq!(client.get("k".into()).await.unwrap(), None);
        assert!(client.put("k".into(), "v".into()).await.unwrap_err().to_string().contains("ERR no"));
    }
}
