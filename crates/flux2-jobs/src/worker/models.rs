//! The models that are loaded on a device, the most recently used first.

use std::time::{Duration, Instant};

use flux2::Result;

use crate::host::{Device, LoadedModel};
use crate::spec::ModelKey;
use crate::state::Shared;

/// A device and the models on it.
pub(super) struct Models {
    device: Box<dyn Device>,
    loaded: Vec<Loaded>,
}

struct Loaded {
    key: ModelKey,
    model: Box<dyn LoadedModel>,
    last_use: Instant,
}

impl Models {
    pub fn new(device: Box<dyn Device>) -> Self {
        Models { device, loaded: Vec::new() }
    }

    pub fn keys(&self) -> Vec<ModelKey> {
        self.loaded.iter().map(|loaded| loaded.key.clone()).collect()
    }

    /// The loaded models and their bytes.
    pub fn loaded(&self) -> Vec<(ModelKey, usize)> {
        self.loaded.iter().map(|loaded| (loaded.key.clone(), loaded.model.memory())).collect()
    }

    /// A model, loaded if it is not. The least recently used ones are released while all together take more than the
    /// device has.
    ///
    /// # Errors
    /// As [`Device::load`].
    pub fn get(&mut self, key: &ModelKey, shared: &Shared) -> Result<&mut dyn LoadedModel> {
        match self.loaded.iter().position(|loaded| loaded.key == *key) {
            Some(at) => self.loaded[..=at].rotate_right(1),
            None => {
                let start = Instant::now();
                let needed = self.device.needs(key)?;
                self.make_room(needed);
                let model = self.device.load(key)?;
                shared.lock().stats.loads.add(start.elapsed().as_secs_f64());
                self.loaded.insert(0, Loaded { key: key.clone(), model, last_use: start });
            }
        }
        let loaded = self.loaded.first_mut().expect("the model is loaded");
        loaded.last_use = Instant::now();
        Ok(&mut *loaded.model)
    }

    /// Release the least recently used models until `bytes` are free.
    fn make_room(&mut self, bytes: usize) {
        let Some(limit) = self.device.memory() else { return };
        let taken = |loaded: &[Loaded]| loaded.iter().map(|loaded| loaded.model.memory()).sum::<usize>();
        while !self.loaded.is_empty() && taken(&self.loaded).saturating_add(bytes) > limit {
            self.loaded.pop();
        }
    }

    /// Release all models but the most recently used one. Returns whether there were any.
    pub fn release_others(&mut self) -> bool {
        let others = self.loaded.len() > 1;
        self.loaded.truncate(1);
        others
    }

    pub fn release_all(&mut self) {
        self.loaded.clear();
    }

    /// Release models that were not used for so long.
    pub fn release_idle(&mut self, idle: Duration) {
        self.loaded.retain(|loaded| loaded.last_use.elapsed() < idle);
    }

    /// Time until a model has been idle for so long; `None` if none is loaded.
    pub fn until_idle(&self, idle: Duration) -> Option<Duration> {
        self.loaded.iter().map(|loaded| idle.saturating_sub(loaded.last_use.elapsed())).min()
    }
}
