//! Notices of the engine, told as Events on their pods.

use crate::{
    cluster::{About, Event, Events, Severity},
    volumes::{Notice, NoticeKind, Notices, Pod},
};

impl Notices for Events {
    fn tell(&self, pod: &Pod, notice: Notice) {
        let severity = match notice.kind {
            NoticeKind::Normal => Severity::Normal,
            NoticeKind::Warning => Severity::Warning,
        };
        let about = About::pod(&pod.namespace, &pod.name, &pod.uid.to_string());
        let Notice { reason, message, .. } = notice;
        self.tell(Event { about, severity, reason, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::FakeApi;

    #[tokio::test]
    async fn a_notice_becomes_an_event_on_its_pod() {
        let api = FakeApi::default();
        let events = Events::start(api.client(), "node-1", "ovl.csi.dev");
        let pod = Pod { namespace: "ci".into(), name: "build".into(), uid: "u-1".parse().unwrap() };
        let message = "ws is slow".to_owned();
        let notice = Notice { kind: NoticeKind::Warning, reason: "Pulling", message };
        Notices::tell(&events, &pod, notice);
        events.flush().await;
        let asked = &api.asked()[0];
        assert_eq!(asked.path, "/api/v1/namespaces/ci/events");
        assert_eq!(asked.body["involvedObject"]["name"], "build");
        assert_eq!(asked.body["involvedObject"]["uid"], "u-1");
        assert_eq!(asked.body["source"]["component"], "ovl.csi.dev");
        assert_eq!(asked.body["source"]["host"], "node-1");
        assert_eq!(asked.body["type"], "Warning");
        assert_eq!(asked.body["reason"], "Pulling");
        assert_eq!(asked.body["message"], "ws is slow");
    }
}
