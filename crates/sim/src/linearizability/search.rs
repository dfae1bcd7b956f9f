//! The search for a legal order of the operations on one key.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, DefaultHasher},
};

use super::{Call, CallId, Model, Obstacle, Verdict, bits::Bits};

/// The same on every run, unlike the standard library's default.
type Configurations<S> = HashSet<(Bits, S), BuildHasherDefault<DefaultHasher>>;

/// The list's end, on both sides.
const HEAD: usize = 0;

/// Operations of a history with their numbers.
pub(super) type Calls<'a, M> = Vec<(CallId, &'a Call<<M as Model>::Input, <M as Model>::Output>)>;

/// Looks for a legal order of `calls`, which are all on `key`.
pub(super) fn search<M: Model>(
    model: &M,
    key: M::Key,
    mut calls: Calls<'_, M>,
    steps_max: u64,
) -> Verdict<M::Key, M::State> {
    calls.sort_by_key(|(_, call)| call.invoked);
    let initial = model.initial(&key);
    let mut search = Search::new(model, calls, initial);
    match search.run(steps_max) {
        Found::Order => Verdict::Linearizable,
        Found::TooMany => Verdict::Unknown { key, steps: steps_max },
        Found::Nothing => Verdict::NotLinearizable(search.obstacle(key)),
    }
}

enum Found {
    Order,
    Nothing,
    TooMany,
}

/// The operations that have their place, in `frames` from the first to the last, and those that have none.
struct Search<'a, M: Model> {
    model: &'a M,
    /// By the time at which they began.
    calls: Calls<'a, M>,
    /// Beginnings and ends of the answered operations that have no place.
    events: Events,
    /// The operations without an answer, by the time at which they began.
    open: Vec<Open>,
    placed: Bits,
    state: M::State,
    frames: Vec<Frame<M::State>>,
    /// What was already looked at.
    seen: Configurations<M::State>,
    /// How many answered operations have no place.
    remaining: usize,
    /// How many operations had their place when the search came furthest, the state then, and what did not fit.
    furthest: Option<(usize, M::State, usize)>,
}

/// An operation without an answer.
struct Open {
    call: usize,
    /// An earlier one that asks for the same: it has its place first, or else there would be equal orders to look at.
    twin: Option<usize>,
}

struct Frame<S> {
    candidate: Candidate,
    /// The state before it.
    before: S,
    /// It changes nothing: what cannot follow on it cannot follow without it either.
    is_read: bool,
}

/// An operation that may come next.
#[derive(Clone, Copy)]
enum Candidate {
    Answered(usize),
    /// By its place among the open ones.
    Open(usize),
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: Calls<'a, M>, state: M::State) -> Search<'a, M> {
        let times = calls.iter().map(|(_, call)| (call.invoked, call.answer.as_ref().map(|(at, _)| *at)));
        let events = Events::new(&times.collect::<Vec<_>>());
        let mut open: Vec<Open> = Vec::new();
        for (number, (_, call)) in calls.iter().enumerate().filter(|(_, (_, call))| call.answer.is_none()) {
            let twin = open.iter().rev().map(|other| other.call).find(|other| calls[*other].1.input == call.input);
            open.push(Open { call: number, twin });
        }
        Search {
            model,
            events,
            placed: Bits::empty(calls.len()),
            state,
            frames: Vec::new(),
            seen: Configurations::default(),
            remaining: calls.len() - open.len(),
            furthest: None,
            open,
            calls,
        }
    }

    fn run(&mut self, steps_max: u64) -> Found {
        let mut candidate = self.first();
        let mut steps = 0;
        while self.remaining > 0 {
            candidate = match candidate {
                Some(this) if self.place(this) => self.first(),
                Some(this) => self.after(this),
                None => match self.take_back() {
                    Some(last) => self.after(last),
                    None => return Found::Nothing,
                },
            };
            steps += 1;
            if steps > steps_max {
                return Found::TooMany;
            }
        }
        Found::Order
    }

    /// The first operation that may come next.
    fn first(&self) -> Option<Candidate> {
        self.answered_or_open(self.events.first())
    }

    /// The one to try when `candidate` does not fit.
    fn after(&self, candidate: Candidate) -> Option<Candidate> {
        match candidate {
            Candidate::Answered(call) => self.answered_or_open(self.events.after(call)),
            Candidate::Open(place) => self.open_from(place + 1),
        }
    }

    /// Answered operations are tried first: mostly those without an answer did not happen, or make no difference.
    fn answered_or_open(&self, event: Event) -> Option<Candidate> {
        match event {
            Event::Invoked(call) => Some(Candidate::Answered(call)),
            Event::Answered(_) => self.open_from(0),
        }
    }

    fn open_from(&self, place: usize) -> Option<Candidate> {
        let (_, answered_at) = self.events.first_answer();
        let may_come = |open: &&Open| self.calls[open.call].1.invoked <= answered_at;
        let fits =
            |open: &Open| !self.placed.contains(open.call) && open.twin.is_none_or(|twin| self.placed.contains(twin));
        let mut open = self.open[place..].iter().take_while(may_come);
        open.position(fits).map(|offset| Candidate::Open(place + offset))
    }

    /// Gives an operation the next place, if it fits and leads to something new.
    fn place(&mut self, candidate: Candidate) -> bool {
        let number = self.number(candidate);
        let call = self.calls[number].1;
        let output = call.answer.as_ref().map(|(_, output)| output);
        let Some(state) = self.model.step(&self.state, &call.input, output) else { return false };
        // What has no answer and changes nothing here may as well come later, or never.
        if matches!(candidate, Candidate::Open(_)) && state == self.state {
            return false;
        }
        let is_read = self.model.is_read(&call.input, output);
        debug_assert!(!is_read || state == self.state, "a read changes nothing: {:?}", call.input);
        self.placed.insert(number);
        if !is_read && !self.seen.insert((self.placed.clone(), state.clone())) {
            self.placed.remove(number);
            return false;
        }
        if let Candidate::Answered(call) = candidate {
            self.events.lift(call);
            self.remaining -= 1;
        }
        let before = std::mem::replace(&mut self.state, state);
        self.frames.push(Frame { candidate, before, is_read });
        true
    }

    /// Nothing fits: takes back operations up to one that could come later.
    fn take_back(&mut self) -> Option<Candidate> {
        if self.furthest.as_ref().is_none_or(|(ordered, ..)| *ordered < self.frames.len()) {
            let (stuck, _) = self.events.first_answer();
            self.furthest = Some((self.frames.len(), self.state.clone(), stuck));
        }
        while let Some(Frame { candidate, before, is_read }) = self.frames.pop() {
            self.placed.remove(self.number(candidate));
            if let Candidate::Answered(call) = candidate {
                self.events.unlift(call);
                self.remaining += 1;
            }
            self.state = before;
            if !is_read {
                return Some(candidate);
            }
        }
        None
    }

    fn number(&self, candidate: Candidate) -> usize {
        match candidate {
            Candidate::Answered(call) => call,
            Candidate::Open(place) => self.open[place].call,
        }
    }

    fn obstacle(self, key: M::Key) -> Obstacle<M::Key, M::State> {
        let calls = self.calls.len();
        // A search that found nothing has taken back at least once.
        let (ordered, state, stuck) = self.furthest.unwrap_or((0, self.state, 0));
        Obstacle { key, calls, ordered, state, stuck: self.calls[stuck].0 }
    }
}

/// Beginnings and ends of operations in the order of time: a list from which an operation can be lifted and put back, the last lifted first.
struct Events {
    /// The events, from 1 on; 0 is before the first and after the last.
    events: Vec<(u64, Event)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The events of each operation; unused for one without an answer.
    places: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Invoked(usize),
    Answered(usize),
}

impl Events {
    /// The events of operations that began and were answered at these times, without those that were not answered.
    fn new(times: &[(u64, Option<u64>)]) -> Events {
        let mut events = Vec::new();
        for (call, (invoked, answered)) in times.iter().enumerate() {
            if let Some(answered) = answered {
                events.push((*invoked, Event::Invoked(call)));
                events.push((*answered, Event::Answered(call)));
            }
        }
        // At equal times beginnings come first: nobody knows the order, so that the operations are concurrent.
        events.sort_by_key(|(at, event)| (*at, matches!(event, Event::Answered(_))));
        let mut places = vec![(HEAD, HEAD); times.len()];
        for (place, (_, event)) in events.iter().enumerate() {
            match event {
                Event::Invoked(call) => places[*call].0 = place + 1,
                Event::Answered(call) => places[*call].1 = place + 1,
            }
        }
        let len = events.len() + 1;
        events.insert(HEAD, (u64::MAX, Event::Answered(usize::MAX)));
        Events {
            events,
            next: (0..len).map(|place| (place + 1) % len).collect(),
            previous: (0..len).map(|place| (place + len - 1) % len).collect(),
            places,
        }
    }

    fn first(&self) -> Event {
        self.events[self.next[HEAD]].1
    }

    /// What follows on the beginning of an operation.
    fn after(&self, call: usize) -> Event {
        self.events[self.next[self.places[call].0]].1
    }

    /// The first operation to be answered, and when.
    fn first_answer(&self) -> (usize, u64) {
        let mut place = self.next[HEAD];
        loop {
            match self.events[place] {
                (_, Event::Invoked(_)) => place = self.next[place],
                (at, Event::Answered(call)) => return (call, at),
            }
        }
    }

    fn lift(&mut self, call: usize) {
        let (invoked, answered) = self.places[call];
        for place in [invoked, answered] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    fn unlift(&mut self, call: usize) {
        let (invoked, answered) = self.places[call];
        for place in [answered, invoked] {
            let (previous, next) = (self.previous[place], self.next[place]);
            self.next[previous] = place;
            self.previous[next] = place;
        }
    }
}
