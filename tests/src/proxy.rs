//! Something between a client and a node that can hold a request back.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

/// A proxy that forwards everything, but keeps back the request that contains a mark until it is told to go on.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub endpoint: String,
    seen: mpsc::Receiver<()>,
    go: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy before `target`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn before(target: String, mark: &'static str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (tell, seen) = mpsc::channel(64);
        let (go, gone) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                tokio::spawn(forward(client, server, mark, tell.clone(), gone.clone()));
            }
        });
        Proxy { endpoint, seen, go }
    }

    /// Waits until the marked request is here.
    ///
    /// # Panics
    /// When the proxy has ended.
    pub async fn seen(&mut self) {
        self.seen.recv().await.expect("the proxy runs");
    }

    /// Lets the marked request, and all later ones, pass.
    pub fn go_on(&self) {
        self.go.send_replace(true);
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    mark: &str,
    tell: mpsc::Sender<()>,
    mut go: watch::Receiver<bool>,
) {
    let ((mut from, mut to), (mut back_from, mut back_to)) = (client.into_split(), server.into_split());
    let back = tokio::spawn(async move { tokio::io::copy(&mut back_from, &mut to).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // Small messages arrive in one piece on loopback.
        if buffer[..read].windows(mark.len()).any(|window| window == mark.as_bytes()) {
            // Whoever listened may have seen enough.
            let _ = tell.try_send(());
            let _ = go.wait_for(|go| *go).await;
        }
        if back_to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    back.abort();
}
