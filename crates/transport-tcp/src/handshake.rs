//! Who is there, and may they stay: both sides of the handshake.

use std::{sync::Arc, time::Duration};

use coracle_transport::{
    Host, Hosted, Inbound, Refusal, check_hello,
    links::{Member, expect_any, part},
};

use crate::{
    TcpOptions,
    wire::{Greeting, Io, PacketBuffer, Purpose, WireError, preamble, put_greeting, read_preamble, write_whole},
};

/// What both sides said.
pub(crate) struct Introduced {
    pub(crate) ours: Hosted,
    pub(crate) theirs: Hosted,
}

/// The side that made the connection: says its hello, and checks that one of `members` at least is there, as the incarnation that is expected.
pub(crate) async fn dial(
    stream: &mut impl Io,
    packets: &mut PacketBuffer,
    host: &dyn Host,
    members: &[Arc<Member>],
    options: &TcpOptions,
) -> Result<Introduced, WireError> {
    let bytes_max = options.hello_bytes_max;
    let hello = host.hello();
    let mut out = preamble(Purpose::Frames).to_vec();
    let ours = Hosted::of(&hello);
    put_greeting(&mut out, &Greeting::Hello(hello), bytes_max)?;
    write_whole(stream, &out).await?;
    read_preamble(stream).await?;
    let theirs = match packets.read_greeting(stream, bytes_max).await? {
        Greeting::Hello(theirs) => theirs,
        Greeting::Refused(refusal) => return Err(WireError::RefusedThere(refusal)),
        Greeting::Welcome => return Err(WireError::Malformed("a welcome came instead of a hello".to_owned())),
    };
    if let Err(refusal) = check_hello(host, &theirs).and_then(|()| expect_any(&theirs, members)) {
        refuse(stream, &refusal, bytes_max).await;
        return Err(WireError::Refused(refusal));
    }
    out.clear();
    put_greeting(&mut out, &Greeting::Welcome, bytes_max)?;
    write_whole(stream, &out).await?;
    Ok(Introduced { ours, theirs: Hosted::of(&theirs) })
}

/// The side that accepted a connection for frames, its preamble read: hears the other side out, and answers.
pub(crate) async fn accept(
    stream: &mut impl Io,
    packets: &mut PacketBuffer,
    host: &Arc<dyn Host>,
    options: &TcpOptions,
) -> Result<Inbound, WireError> {
    let bytes_max = options.hello_bytes_max;
    let Greeting::Hello(theirs) = packets.read_greeting(stream, bytes_max).await? else {
        return Err(WireError::Malformed("the first greeting is not a hello".to_owned()));
    };
    write_whole(stream, &preamble(Purpose::Frames)).await?;
    let inbound = match Inbound::admit(host.clone(), &theirs) {
        Ok(inbound) => inbound,
        Err(refusal) => {
            refuse(stream, &refusal, bytes_max).await;
            return Err(WireError::Refused(refusal));
        }
    };
    say_hello(stream, host.as_ref(), bytes_max).await?;
    match packets.read_greeting(stream, bytes_max).await? {
        Greeting::Welcome => Ok(inbound),
        Greeting::Refused(refusal) => Err(WireError::RefusedThere(refusal)),
        Greeting::Hello(_) => Err(WireError::Malformed("a hello came instead of a welcome".to_owned())),
    }
}

pub(crate) async fn say_hello(stream: &mut impl Io, host: &dyn Host, bytes_max: usize) -> Result<(), WireError> {
    let mut out = Vec::new();
    put_greeting(&mut out, &Greeting::Hello(host.hello()), bytes_max)?;
    write_whole(stream, &out).await?;
    Ok(())
}

/// Tells the other side why it cannot stay, and waits a little for it to go.
pub(crate) async fn refuse(stream: &mut impl Io, refusal: &Refusal, bytes_max: usize) {
    /// The other side hangs up as soon as it has read the reason.
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut out = Vec::new();
    if put_greeting(&mut out, &Greeting::Refused(refusal.clone()), bytes_max).is_ok() {
        // The refusal stands whether or not it was heard.
        let _ = tokio::time::timeout(PATIENCE, part(stream, &out)).await;
    }
}
