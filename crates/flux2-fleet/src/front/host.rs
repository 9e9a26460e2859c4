//! What a front end knows of the models of a fleet: what workers have offered. It draws nothing.

use std::sync::{Arc, PoisonError, RwLock};

use flux2::{ResolvedRequest, Upscaler};
use flux2_jobs::host::{Device, ModelHost, ModelInfo, ResolvedModel, nearest, usual_upscalers};
use flux2_jobs::{FailureClass, JobFailure, ModelChoice, ModelKey, Refused};

use crate::roster::Offer;

/// The models that workers have offered. Clones are handles of the same ones.
#[derive(Clone, Debug, Default)]
pub struct Models {
    offers: Arc<RwLock<Vec<Offer>>>,
}

impl Models {
    /// Offer these from now on.
    pub fn replace(&self, offers: Vec<Offer>) {
        *self.offers.write().unwrap_or_else(PoisonError::into_inner) = offers;
    }

    /// Whether no worker was ever there.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn all(&self) -> Vec<Offer> {
        self.offers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ModelHost for Models {
    fn models(&self) -> Vec<ModelInfo> {
        self.all().iter().map(Offer::info).collect()
    }

    fn loras(&self) -> Vec<String> {
        self.all().into_iter().next().map(|offer| offer.loras).unwrap_or_default()
    }

    /// Those that are built in: of others only the workers have the files.
    fn upscalers(&self) -> Vec<Upscaler> {
        let offered: Vec<String> = self.all().into_iter().flat_map(|offer| offer.upscalers).collect();
        usual_upscalers().into_iter().filter(|usual| offered.iter().any(|name| name == usual.name())).collect()
    }

    fn resolve(&self, choice: &ModelChoice) -> Result<ResolvedModel, Refused> {
        let offers = self.all();
        let is = |known: &str, name: &str| known.eq_ignore_ascii_case(name);
        let found = match &choice.name {
            None => offers.first(),
            Some(name) => {
                offers.iter().find(|offer| is(&offer.name, name) || offer.aliases.iter().any(|alias| is(alias, name)))
            }
        };
        let Some(offer) = found else {
            let Some(name) = choice.name.clone() else {
                let message = "no worker has offered a model yet";
                return Err(Refused::Unavailable(JobFailure::new(FailureClass::ModelUnavailable, message)));
            };
            let names: Vec<String> = offers.into_iter().map(|offer| offer.name).collect();
            let nearest = nearest(&name, &names);
            return Err(Refused::UnknownModel { name, nearest });
        };
        if let Some(lora) = choice.loras.iter().find(|lora| !offer.loras.contains(&lora.name)) {
            return Err(Refused::UnknownLora { name: lora.name.clone(), nearest: nearest(&lora.name, &offer.loras) });
        }
        let newer = |what: &str| {
            let message = format!("the workers of {} have {what}, which this version does not know", offer.name);
            Refused::Unavailable(JobFailure::new(FailureClass::ModelUnavailable, message))
        };
        let variant = offer.variant().ok_or_else(|| newer(&offer.variant))?;
        let precision = choice.precision.or_else(|| offer.precision()).ok_or_else(|| newer(&offer.precision))?;
        let key = ModelKey { name: offer.name.clone(), loras: choice.loras.clone(), precision };
        Ok(ResolvedModel { key, variant })
    }

    fn work(&self, _: &ModelKey, _: &ResolvedRequest) -> f64 {
        0.0
    }

    fn devices(&self) -> Result<Vec<Box<dyn Device>>, JobFailure> {
        Err(JobFailure::new(FailureClass::ModelUnavailable, "the front end of a fleet draws nothing"))
    }
}
