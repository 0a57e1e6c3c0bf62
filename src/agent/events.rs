//! The [`EventRecorder`] of a cluster: events of volumes and snapshots become Events on their pods.

use crate::{
    cluster::{Event, EventType, Events, Regarding},
    volumes::{EventRecorder, Pod, PodEvent, PodEventType},
};

impl EventRecorder for Events {
    fn record(&self, pod: &Pod, notice: PodEvent) {
        let severity = match notice.kind {
            PodEventType::Normal => EventType::Normal,
            PodEventType::Warning => EventType::Warning,
        };
        let about = Regarding::pod(&pod.namespace, &pod.name, &pod.uid.to_string());
        let PodEvent { reason, message, .. } = notice;
        self.record(Event { regarding: about, event_type: severity, reason, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeApi;

    #[tokio::test]
    async fn an_event_of_a_volume_becomes_an_event_on_its_pod() {
        let api = FakeApi::default();
        let events = Events::start(api.client(), "node-1", "ovl.csi.dev");
        let pod = Pod { namespace: "ci".into(), name: "build".into(), uid: "u-1".parse().unwrap() };
        let message = "ws is slow".to_owned();
        let notice = PodEvent { kind: PodEventType::Warning, reason: "Pulling", message };
        EventRecorder::record(&events, &pod, notice);
        events.flush().await;
        let request = &api.requests()[0];
        assert_eq!(request.path, "/api/v1/namespaces/ci/events");
        assert_eq!(request.body["involvedObject"]["name"], "build");
        assert_eq!(request.body["involvedObject"]["uid"], "u-1");
        assert_eq!(request.body["source"]["component"], "ovl.csi.dev");
        assert_eq!(request.body["source"]["host"], "node-1");
        assert_eq!(request.body["type"], "Warning");
        assert_eq!(request.body["reason"], "Pulling");
        assert_eq!(request.body["message"], "ws is slow");
    }
}
