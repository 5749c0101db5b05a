//! The clients of a run: each opens its mount and has its users do what was drawn, or play a story.

use core::time::Duration;
use std::rc::Rc;

use t3fs_runtime::Cx;

use super::door::{Door, Mount};
use super::options::Options;
use super::stories::{self, LeverSlot};
use super::user::{Stage, User};
use crate::world::Sim;

/// What every client of a run has, whenever it starts.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) stage: Rc<Stage>,
    pub(super) levers: Rc<LeverSlot>,
    pub(super) sim: Sim,
}

impl Clients {
    /// A client, from its start to its end or its crash.
    pub(super) async fn client(self, cx: Cx, client: u32) {
        let Clients { stage, levers, sim } = self;
        let life = stage.files.borrow_mut().life();
        let Options { buffer, patience, deadline, .. } = stage.options;
        while stage.dir.get().is_none() {
            cx.sleep(Duration::from_millis(10)).await;
        }
        if client > 0 {
            let late = sim.rng(20 + u64::from(client)).below(stage.options.late_us + 1);
            cx.sleep(Duration::from_micros(late)).await;
        }
        let door = Door::open(&cx, Mount { buffer, patience, deadline }).await;
        for number in 0..stage.options.users {
            let mut user = User::new(&stage, &door, (&cx, &sim), life, (client, number));
            let levers = Rc::clone(&levers);
            cx.spawn(async move {
                match user.stage.options.story {
                    Some(story) => stories::play(story, &mut user, number, &levers).await,
                    None => user.run().await,
                }
                user.close_all().await;
                user.stage.got_done(client, number);
            });
        }
    }
}
