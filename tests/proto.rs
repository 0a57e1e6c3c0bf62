//! Checks that the files in `proto/` agree with the published ones.
//!
//! Each message, field, enum value and call in `proto/` must be the same in the published file. The published file may
//! have more: `proto/` leaves out everything that the driver does not serve.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{env, path::Path};

use protox::{
    Compiler,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
    prost_reflect::{
        DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor,
    },
};

const CSI: &str = "csi/v1/csi.proto";
const REGISTRATION: &str = "pluginregistration/v1/api.proto";

#[test]
#[ignore = "needs the published modules; cargo xtask test runs it"]
fn the_csi_proto_agrees_with_the_published_file() {
    same_as_published(CSI, "OVL_CSI_PROTO");
}

#[test]
#[ignore = "needs the published modules; cargo xtask test runs it"]
fn the_registration_proto_agrees_with_the_published_file() {
    same_as_published(REGISTRATION, "OVL_KUBELET_PROTO");
}

fn same_as_published(ours: &str, variable: &str) {
    let path = env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} must be the path of the published {ours}"));
    let published = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let differences = differences(&source(ours), &published);
    assert!(
        differences.is_empty(),
        "proto/{ours} differs from {path}:\n  {}",
        differences.join("\n  ")
    );
}

/// The comparison finds each kind of difference.
#[test]
fn each_difference_is_reported() {
    let ours = source(CSI);
    assert_eq!(differences(&ours, &ours), Vec::<String>::new());
    for (published, instead, difference) in [
        ("package csi.v1;", "package csi.v2;", "csi.v1.ProbeResponse: no such message"),
        (
            "string node_id = 1;",
            "string node_id = 2;",
            "csi.v1.NodeGetInfoResponse.node_id: number 1, published 2",
        ),
        (
            "string node_id = 1;",
            "bytes node_id = 1;",
            "csi.v1.NodeGetInfoResponse.node_id: type string, published bytes",
        ),
        (
            "string node_id = 1;",
            "string name = 1;",
            "csi.v1.NodeGetInfoResponse.node_id: no such field",
        ),
        (
            "string node_id = 1;",
            "string node_id = 1 [json_name = \"id\"];",
            "csi.v1.NodeGetInfoResponse.node_id: json name nodeId, published id",
        ),
        (
            "repeated string mount_flags",
            "string mount_flags",
            "csi.v1.VolumeCapability.MountVolume.mount_flags: label Repeated, published Optional",
        ),
        (
            "AccessMode access_mode = 3;",
            "BlockVolume access_mode = 3;",
            "csi.v1.VolumeCapability.access_mode: type csi.v1.VolumeCapability.AccessMode, published csi.v1.VolumeCapability.BlockVolume",
        ),
        (
            "oneof access_type {",
            "oneof kind {",
            "csi.v1.VolumeCapability.block: oneof access_type, published kind",
        ),
        (
            "SINGLE_NODE_SINGLE_WRITER = 6;",
            "SINGLE_NODE_SINGLE_WRITER = 8;",
            "csi.v1.VolumeCapability.AccessMode.Mode.SINGLE_NODE_SINGLE_WRITER: 6, published 8",
        ),
        (
            "rpc Probe(ProbeRequest)",
            "rpc Probe(GetPluginInfoRequest)",
            "csi.v1.Identity.Probe: takes csi.v1.ProbeRequest, published csi.v1.GetPluginInfoRequest",
        ),
        (
            "returns (ProbeResponse)",
            "returns (stream ProbeResponse)",
            "csi.v1.Identity.Probe: returns csi.v1.ProbeResponse, published stream csi.v1.ProbeResponse",
        ),
        ("rpc NodeGetInfo(", "rpc NodeInfo(", "csi.v1.Node.NodeGetInfo: no such call"),
        (
            "csi_secret = 1059",
            "csi_secret = 1061",
            "csi.v1.csi_secret: number 1059, published 1061",
        ),
        (
            " [(csi_secret) = true]",
            "",
            "csi.v1.NodePublishVolumeRequest.secrets: csi_secret true, published false",
        ),
    ] {
        assert!(ours.contains(published), "{published}");
        let found = differences(&ours, &ours.replace(published, instead));
        assert!(found.iter().any(|line| line == difference), "{difference:?} not in {found:#?}");
    }
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// The differences of `ours` from `published`, one line each.
fn differences(ours: &str, published: &str) -> Vec<String> {
    let (ours, published) = (compile(ours), compile(published));
    let mut found = Found(Vec::new());
    for message in ours.all_messages().filter(|m| is_ours(m.full_name())) {
        found.message(&message, &published);
    }
    for values in ours.all_enums().filter(|e| is_ours(e.full_name())) {
        found.values(&values, &published);
    }
    for service in ours.services() {
        found.service(&service, &published);
    }
    for option in ours.all_extensions() {
        let name = option.full_name();
        match published.get_extension_by_name(name) {
            None => found.missing(name, "option"),
            Some(other) => {
                found.same(name, "number", option.number(), other.number());
                found.same(
                    name,
                    "type",
                    format!("{:?}", option.kind()),
                    format!("{:?}", other.kind()),
                );
            }
        }
    }
    found.0
}

struct Found(Vec<String>);

impl Found {
    fn missing(&mut self, name: &str, what: &str) {
        self.0.push(format!("{name}: no such {what}"));
    }

    fn same<T: PartialEq + std::fmt::Display>(
        &mut self,
        name: &str,
        what: &str,
        ours: T,
        published: T,
    ) {
        if ours != published {
            let space = if what.is_empty() { "" } else { " " };
            self.0.push(format!("{name}: {what}{space}{ours}, published {published}"));
        }
    }

    fn message(&mut self, ours: &MessageDescriptor, published: &DescriptorPool) {
        let Some(other) = published.get_message_by_name(ours.full_name()) else {
            return self.missing(ours.full_name(), "message");
        };
        for field in ours.fields() {
            match other.get_field_by_name(field.name()) {
                None => self.missing(field.full_name(), "field"),
                Some(other) => self.field(&field, &other),
            }
        }
    }

    fn field(&mut self, ours: &FieldDescriptor, published: &FieldDescriptor) {
        let name = ours.full_name();
        self.same(name, "number", ours.number(), published.number());
        self.same(name, "type", type_of(ours), type_of(published));
        self.same(name, "label", label(ours), label(published));
        self.same(name, "json name", ours.json_name(), published.json_name());
        self.same(name, "oneof", oneof(ours), oneof(published));
        self.same(name, "csi_secret", is_secret(ours), is_secret(published));
    }

    fn values(&mut self, ours: &EnumDescriptor, published: &DescriptorPool) {
        let Some(other) = published.get_enum_by_name(ours.full_name()) else {
            return self.missing(ours.full_name(), "enum");
        };
        for value in ours.values() {
            // The full name of a value leaves out its enum, because a value is in the scope of the enum's parent.
            let name = format!("{}.{}", ours.full_name(), value.name());
            match other.get_value_by_name(value.name()) {
                None => self.missing(&name, "value"),
                Some(other) => self.same(&name, "", value.number(), other.number()),
            }
        }
    }

    fn service(&mut self, ours: &ServiceDescriptor, published: &DescriptorPool) {
        let Some(other) = published.get_service_by_name(ours.full_name()) else {
            return self.missing(ours.full_name(), "service");
        };
        for call in ours.methods() {
            let Some(other) = other.methods().find(|other| other.name() == call.name()) else {
                self.missing(call.full_name(), "call");
                continue;
            };
            let side = |stream: bool, message: MessageDescriptor| {
                format!("{}{}", if stream { "stream " } else { "" }, message.full_name())
            };
            self.same(
                call.full_name(),
                "takes",
                side(call.is_client_streaming(), call.input()),
                side(other.is_client_streaming(), other.input()),
            );
            self.same(
                call.full_name(),
                "returns",
                side(call.is_server_streaming(), call.output()),
                side(other.is_server_streaming(), other.output()),
            );
        }
    }
}

/// The type as in the file. For a map, the types of its key and value.
fn type_of(field: &FieldDescriptor) -> String {
    let kind = field.kind();
    match kind.as_message() {
        Some(entry) if entry.is_map_entry() => format!(
            "map<{}, {}>",
            type_of(&entry.map_entry_key_field()),
            type_of(&entry.map_entry_value_field())
        ),
        Some(message) => message.full_name().to_owned(),
        None => match kind.as_enum() {
            Some(values) => values.full_name().to_owned(),
            None => format!("{kind:?}").to_lowercase(),
        },
    }
}

fn label(field: &FieldDescriptor) -> String {
    let presence =
        if field.field_descriptor_proto().proto3_optional() { " with presence" } else { "" };
    format!("{:?}{presence}", field.cardinality())
}

fn oneof(field: &FieldDescriptor) -> String {
    field.containing_oneof().map_or_else(|| "none".to_owned(), |oneof| oneof.name().to_owned())
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let marker = field.parent_pool().get_extension_by_name("csi.v1.csi_secret");
    marker.is_some_and(|marker| field.options().get_extension(&marker).as_bool() == Some(true))
}

/// Whether a name is defined by these files. Each pool also has the definitions of protobuf itself.
fn is_ours(full_name: &str) -> bool {
    !full_name.starts_with("google.protobuf.")
}

fn compile(source: &str) -> DescriptorPool {
    struct One(String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name != "file.proto" {
                return Err(protox::Error::file_not_found(name));
            }
            File::from_source(name, &self.0)
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(One(source.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("file.proto").unwrap_or_else(|e| panic!("{e:?}"));
    compiler.descriptor_pool()
}
