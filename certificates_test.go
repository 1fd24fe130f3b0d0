// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// privateKey returns a private key as PEM.
func privateKey(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestOnlyCertificatesAreStored shows that a private key beside the certificates is refused: a read of the config would show it.
func TestOnlyCertificatesAreStored(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithTLS())
	certificate, key := m.workspace.CACert(), privateKey(t)
	for name, text := range map[string]string{
		"a key":                     key,
		"a key after":               certificate + key,
		"a key before":              key + certificate,
		"a key that can't be read":  certificate + "-----BEGIN RSA PRIVATE KEY-----\nnot base64!\n-----END RSA PRIVATE KEY-----\n",
		"half a key":                certificate + key[:60],
		"a certificate that's none": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"no certificate":            "hello",
		"text between":              certificate + "Private-Lines: 8\nAAAA\n" + certificate,
		"a key of another form":     certificate + "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n",
		"a key without lines":       certificate + "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n",
		"a block with a header":     strings.Replace(certificate, "-----\n", "-----\nPrivate-Key: MIGHAgEAMBMG\n\n", 1),
		"half a certificate":        certificate + certificate[:60],
	} {
		resp, err := m.do(logical.UpdateOperation, "config", map[string]any{"host": m.workspace.URL(), "token": m.token, "ca_cert": text})
		m.refused(resp, err, "ca_cert: holds ", "-----BEGIN CERTIFICATE-----")
		require.Nil(t, m.read("config"), name)
	}
	withComments := "# the proxy's\n" + certificate + "\n# and again\n" + certificate
	require.Equal(t, withComments, m.connect(map[string]any{"ca_cert": withComments}).Data["ca_cert"], "as it was sent, so that Terraform sees no difference")
}

// TestAStoredPrivateKeyIsNotShown shows that a mount of v0.1.0, which stored whatever stood beside a certificate, goes on without it.
func TestAStoredPrivateKeyIsNotShown(t *testing.T) {
	t.Parallel()
	m := newMount(t, simulator.WithTLS())
	certificate, key := m.workspace.CACert(), privateKey(t)
	m.connect(map[string]any{"ca_cert": certificate})
	config, err := readConfig(t.Context(), m.storage)
	require.NoError(t, err)
	config.CACert = certificate + key + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	require.NoError(t, putConfig(t.Context(), m.storage, config))
	m.backend.InvalidateKey(t.Context(), configStorageKey)

	require.Equal(t, certificate, m.read("config").Data["ca_cert"])
	m.write("config", map[string]any{"ttl": "10m"})
	entry, err := m.storage.Get(t.Context(), configStorageKey)
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value), "PRIVATE KEY")
	m.write("config", map[string]any{"token": m.token})
}
