//! ovl-csi
