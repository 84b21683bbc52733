//! kube-proxy: Services to pods.
