"""Certificates for libvirt and QEMU: a CA in a directory of the operator's, and what it signed on the hosts.

`x509` makes and reads certificates and touches nothing; `authority` is the CA's directory; `onhost` looks at hosts and puts files
there; `handshake` tries TLS between hosts; `fleet` puts them together for a set of hosts. What is wrong with what was found is
decided in `segue.core.pki`.
"""
