//! Deadlines that hardly ever pass: to set one and to take it back costs next to nothing, to look
//! for those that have passed costs a look at each.
//!
//! There is room for as many as ever stood at a time, which credits and their queues bound.

use crate::time::Time;

/// What follows when each of them passes.
pub(crate) struct Deadlines<T> {
    places: Vec<State<T>>,
    free: Vec<usize>,
    next: u64,
}

enum State<T> {
    Free,
    Set {
        at: Time,
        /// Of deadlines that pass together, who was first.
        order: u64,
        late: T,
    },
    Passed,
}

/// Where a deadline was set; to be given back by [`Deadlines::unset`].
#[derive(Debug)]
pub(crate) struct Place(usize);

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Deadlines { places: Vec::new(), free: Vec::new(), next: 0 }
    }
}

impl<T> Deadlines<T> {
    pub(crate) fn set(&mut self, at: Time, late: T) -> Place {
        let set = State::Set { at, order: self.next, late };
        self.next += 1;
        if let Some(place) = self.free.pop() {
            self.places[place] = set;
            return Place(place);
        }
        self.places.push(set);
        Place(self.places.len() - 1)
    }

    /// The deadline does not stand any more, whether it has passed or not.
    pub(crate) fn unset(&mut self, place: Place) {
        self.places[place.0] = State::Free;
        self.free.push(place.0);
    }

    /// Takes out those that have passed, in order, and says when the next one does.
    pub(crate) fn take_passed(&mut self, now: Time) -> (Vec<T>, Option<Time>) {
        let (mut passed, mut next) = (Vec::new(), None::<Time>);
        for place in &mut self.places {
            let State::Set { at, .. } = place else { continue };
            if *at > now {
                next = Some(next.map_or(*at, |next| next.min(*at)));
            } else if let State::Set { at, order, late } = std::mem::replace(place, State::Passed) {
                passed.push((at, order, late));
            }
        }
        passed.sort_by_key(|(at, order, _)| (*at, *order));
        (passed.into_iter().map(|(_, _, late)| late).collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Goal: those that stand pass once, in the order of their times, and then of setting;
        /// those taken back never do. Method: the same steps on a sorted map.
        #[test]
        fn they_pass_in_order_or_not_at_all(
            steps in proptest::collection::vec((0..3u8, 0..50u64), 1..200),
        ) {
            let (mut deadlines, mut model) = (Deadlines::default(), BTreeMap::new());
            let (mut places, mut now) = (Vec::new(), 0);
            for (number, (step, n)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let at = Time::from_us(now + n);
                        places.push((deadlines.set(at, number), (at, number)));
                        model.insert((at, number), ());
                    }
                    1 if !places.is_empty() => {
                        let (place, key) = places.swap_remove(n as usize % places.len());
                        deadlines.unset(place);
                        model.remove(&key);
                    }
                    _ => {
                        now += n;
                        let (passed, next) = deadlines.take_passed(Time::from_us(now));
                        let later = model.split_off(&(Time::from_us(now + 1), 0));
                        let want = std::mem::replace(&mut model, later).into_keys();
                        prop_assert_eq!(passed, want.map(|k| k.1).collect::<Vec<_>>());
                        prop_assert_eq!(next, model.keys().next().map(|k| k.0));
                    }
                }
            }
            // Places are used again.
            prop_assert!(deadlines.places.len() <= places.len() + deadlines.free.len());
        }
    }
}
