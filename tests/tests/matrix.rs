//! Every transport with every storage: a crash, a partition of the leader, and every acknowledged write counts once.
//!
//! The network in memory is tested within this process, all others with real processes on real sockets; Redis is a real server for each node.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cells;

use std::future::Future;

use coracle_tests::{load::Load, state::State};

use cells::{Cell, Storage, Transport, World, processes::Processes, within::Within};

/// How many keys are written beside the counters in each phase.
const KEYS: usize = 5;

/// Runs one cell, with few others at the same time.
fn run(transport: Transport, storage: Storage) {
    let _turn = cells::turn();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cell = Cell { transport, storage };
    match transport {
        Transport::Memory => runtime.block_on(async { crash_and_partition(Within::start(cell).await).await }),
        _ => runtime.block_on(async { crash_and_partition(Processes::start(cell)).await }),
    }
}

async fn crash_and_partition(mut world: impl World) {
    let mut expected = State::new();
    let crashed = world.leader_among(&[0, 1, 2]).await;
    let writers: Vec<usize> = others(crashed).collect();
    let loads: Vec<Load> = writers.iter().map(|&node| Load::start(world.level(node), &format!("sum/{node}"))).collect();
    loads.iter().for_each(Load::goes_on);
    write(&world, writers[0], "before", &mut expected).await;

    world.crash(crashed).await;
    loads.iter().for_each(Load::goes_on);
    write(&world, writers[0], "crashed", &mut expected).await;
    world.come_back(crashed).await;

    let cut_off = world.leader_among(&[0, 1, 2]).await;
    let majority: Vec<usize> = others(cut_off).collect();
    world.isolate(cut_off);
    world.leader_among(&majority).await;
    let on_majority = writers.iter().zip(&loads).filter(|(writer, _)| majority.contains(writer));
    on_majority.for_each(|(_, load)| load.goes_on());
    write(&world, majority[0], "parted", &mut expected).await;
    world.heal(cut_off);

    world.leader_among(&[0, 1, 2]).await;
    loads.iter().for_each(Load::goes_on);
    for load in loads {
        let key = load.key().to_owned();
        expected.insert(key.into(), load.stop().await.to_string().into());
    }
    for node in 0..3 {
        world.reaches(node, &expected).await;
    }
}

fn others(node: usize) -> impl Iterator<Item = usize> {
    (0..3).filter(move |other| *other != node)
}

/// Writes keys of this phase through a node.
fn write<'a>(
    world: &'a impl World,
    node: usize,
    phase: &'a str,
    expected: &'a mut State,
) -> impl Future<Output = ()> + 'a {
    let level = world.level(node);
    async move {
        for number in 0..KEYS {
            let (key, value) = (format!("key/{phase}/{number}"), format!("{phase} {number}"));
            level.put(&key, value.clone()).await.unwrap();
            expected.insert(key.into(), value.into());
        }
    }
}

macro_rules! matrix {
    ($($name:ident: $transport:ident,)*) => { $(
        mod $name {
            use super::{Storage, Transport, run};

            #[test]
            fn memory() {
                run(Transport::$transport, Storage::Memory);
            }
            #[test]
            fn sled() {
                run(Transport::$transport, Storage::Sled);
            }
            #[test]
            fn file() {
                run(Transport::$transport, Storage::File);
            }
            #[test]
            fn file_with_state_in_memory() {
                run(Transport::$transport, Storage::FileAndMemory);
            }
            #[test]
            fn redis() {
                run(Transport::$transport, Storage::Redis);
            }
        }
    )* };
}

matrix! {
    tcp: Tcp,
    tcp_over_tls: TcpOverTls,
    grpc: Grpc,
    grpc_over_tls: GrpcOverTls,
    unix: Unix,
    within_one_process: Memory,
}
