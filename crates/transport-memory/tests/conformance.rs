//! The suite that every transport passes.

use std::sync::Arc;

use coracle_transport::{
    Address, Route, Transport,
    conformance::{self, Factory},
};
use coracle_transport_memory::MemoryNetwork;

struct Memory(MemoryNetwork);

fn id(address: &Address) -> u64 {
    match address.route() {
        Route::Memory { id } => *id,
        other => panic!("{other:?} is not in memory"),
    }
}

impl Factory for Memory {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.0.transport())
    }

    fn bind(&self) -> Address {
        Address::memory(0)
    }

    fn frame_bytes_max(&self) -> Option<usize> {
        None
    }

    fn cut(&self, a: &Address, b: &Address) -> bool {
        self.0.disconnect(id(a), id(b));
        true
    }

    fn mend(&self, a: &Address, b: &Address) {
        self.0.reconnect(id(a), id(b));
    }
}

#[tokio::test]
async fn the_network_in_memory_passes() {
    let report = conformance::transport(Memory(MemoryNetwork::new())).await;
    // There are no bytes to split, and no queue that could fill.
    let skipped = [
        "cuts::connections_cut_at_every_byte",
        "cuts::frames_split_at_every_byte",
        "pressure::a_host_that_does_not_read_fills_the_queue",
        "pressure::a_slow_reader_does_not_hold_up_others",
        "closing::the_end_does_not_wait_for_who_does_not_read",
    ];
    assert_eq!(report.skipped, skipped);
}
