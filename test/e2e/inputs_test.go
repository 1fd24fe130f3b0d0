// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// send sends the body as it is, and returns the status and the text of the answer.
func (m *mount) send(method, path, body string) (int, string) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, m.client.Address()+"/v1/"+m.path+"/"+path, strings.NewReader(body))
	require.NoError(m.t, err)
	req.Header.Set("X-Vault-Token", m.client.Token())
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(m.t, err)
	return resp.StatusCode, string(answer)
}

// TestARequestMeansWhatItSays sends through a real Vault, whose decoder already changes some of it, what the engine would have to guess.
func TestARequestMeansWhatItSays(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("secrets/etl", data{"secrets": data{"keep": "v1", "also": "v2"}})
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	before := m.read("roles/etl")
	for body, row := range map[string]struct{ path, want string }{
		`{"string_value":12345678901234567890}`:                {"secrets/etl/n", "string_value: "},
		`{"string_value":0.10}`:                                {"secrets/etl/n", "string_value: "},
		`{"string_value":true}`:                                {"secrets/etl/n", "string_value: "},
		"{\"string_value\":\"PK\xff\xfe\"}":                    {"secrets/etl/n", "bytes_value"},
		"{\"secrets\":{\"n\":\"PK\xff\xfe\"}}":                 {"secrets/etl", "in bytes"},
		`{"secrets":{"keep":"v1"},"prune":true,"dryrun":true}`: {"secrets/etl", "dryrun"},
		`{"secrets":{"keep":"v1"},"prune":"yes"}`:              {"secrets/etl", "prune: "},
		`{"secrets":{"n":5}}`:                                  {"secrets/etl", "secrets: "},
		`{"string_value":"v","tll":"5m"}`:                      {"secrets/etl/n", "tll"},
		`{"string_value":"v","scope":"prod"}`:                  {"secrets/etl/n", "scope: "},
		`{"dryrun":true}`:                                      {"tidy", "dryrun"},
		`{"max_ttl":0.5}`:                                      {"roles/etl", "max_ttl: "},
		`{"max_ttl":18446744074}`:                              {"roles/etl", "max_ttl: "},
		`{"comment":5}`:                                        {"roles/etl", "comment: "},
		`{"credential_type":"obo_token","service_principal_id":9007199254740993}`: {"roles/obo", "service_principal_id: "},
	} {
		status, answer := m.send(http.MethodPost, row.path, body)
		require.Equal(t, http.StatusBadRequest, status, body+answer)
		require.Contains(t, answer, row.want, body)
	}
	require.Equal(t, before, m.read("roles/etl"))
	require.ElementsMatch(t, []string{"keep", "also"}, m.keys("secrets/etl"))
	require.Equal(t, "idle", m.read("tidy/status")["state"])

	status, answer := m.send(http.MethodGet, "creds/etl?tll=5m", "")
	require.Equal(t, http.StatusBadRequest, status, answer)
	status, answer = m.send(http.MethodDelete, "secrets/etl/keep?dry_run=true", "")
	require.Equal(t, http.StatusBadRequest, status, answer)
	require.ElementsMatch(t, []string{"keep", "also"}, m.keys("secrets/etl"))
}

// TestADeleteSaysThatItSucceeded types deletes: the CLI prints its success only for a 204.
func TestADeleteSaysThatItSucceeded(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("secrets/etl/k", data{"string_value": "v"})
	m.write("acls/etl/users", data{"permission": "READ"})
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	for range 2 {
		for _, path := range []string{"secrets/etl/k", "acls/etl/users", "scopes/etl", "roles/etl"} {
			out, err := m.vault("delete " + m.path + "/" + path)
			require.NoError(t, err, out)
			require.Contains(t, out, "Success! Data deleted (if it existed)", path)
			status, answer := m.send(http.MethodDelete, path, "")
			require.Equal(t, http.StatusNoContent, status, answer)
			require.Empty(t, answer)
		}
	}
}
