// SPDX-License-Identifier: MPL-2.0

package client

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// TestCodesOfTheSecretsAPI holds every method against every code of the API, whatever the status it comes with.
func TestCodesOfTheSecretsAPI(t *testing.T) {
	t.Parallel()
	table := []struct {
		code   string
		status []int
		kind   Kind
	}{
		{"RESOURCE_LIMIT_EXCEEDED", []int{400, 403, 409, 429, 500}, QuotaExceeded},
		{"QUOTA_EXCEEDED", []int{400, 429}, QuotaExceeded},
		{"RESOURCE_DOES_NOT_EXIST", []int{404, 400, 403, 409, 500}, NotFound},
		{"NOT_FOUND", []int{404}, NotFound},
		{"PERMISSION_DENIED", []int{403, 400, 404}, PermissionDenied},
		{"BAD_REQUEST", []int{400, 404}, Refused},
		{"INVALID_PARAMETER_VALUE", []int{400, 404, 409}, Refused},
		{"MALFORMED_REQUEST", []int{400}, Refused},
		{"RESOURCE_ALREADY_EXISTS", []int{400, 409, 500}, Refused},
		{"UNAUTHENTICATED", []int{401}, Unauthenticated},
		{"INTERNAL_ERROR", []int{500}, Unavailable},
		{"REQUEST_LIMIT_EXCEEDED", []int{429}, Throttled},
	}
	for _, call := range secretCalls {
		t.Run(call.op, func(t *testing.T) {
			t.Parallel()
			check := func(status int, code string, kind Kind) {
				s := newServer(t, answer(status, envelope(code, "no such luck"), "X-Request-Id", "req-7"))
				cfg := patConfig(s.URL)
				cfg.MaxRetries = 0
				err := call.do(t.Context(), newClient(t, cfg))
				e := failureOf(t, err)
				require.Equal(t, kind.String(), e.Kind.String(), "%d %s", status, code)
				require.Equal(t, code, e.ErrorCode)
				require.Equal(t, call.op, e.Op)
				require.Equal(t, status, e.Status)
				require.Equal(t, "req-7", e.RequestID)
				require.Contains(t, err.Error(), fmt.Sprintf(": %s (HTTP %d): no such luck", code, status))
				require.Equal(t, status < 500 && kind != Throttled, e.Unprocessed, "%d %s", status, code)
				require.EqualValues(t, 1, s.requests.Load())
			}
			for _, row := range table {
				for _, status := range row.status {
					check(status, row.code, row.kind)
				}
			}
			reserved := Unauthenticated
			if call.op == opScopeCreate {
				reserved = Refused
			}
			check(401, "CUSTOMER_UNAUTHORIZED", reserved)
		})
	}
}

func TestAbsenceInWordsCountsOnSecretDeletesOnly(t *testing.T) {
	t.Parallel()
	for _, call := range secretCalls {
		want := Refused
		if strings.HasSuffix(call.op, "/delete") {
			want = NotFound
		}
		s := newServer(t, answer(400, envelope("INVALID_PARAMETER_VALUE", "Principal p Does Not Exist")))
		e := failureOf(t, call.do(t.Context(), newClient(t, patConfig(s.URL))))
		require.Equal(t, want.String(), e.Kind.String(), call.op)
		require.Equal(t, "INVALID_PARAMETER_VALUE", e.ErrorCode)
	}
}

func TestRefusalsOfAWorkspace(t *testing.T) {
	t.Parallel()
	w, admin := simulated(t, simulator.WithScopeLimit(1), simulator.WithSecretLimit(1))
	token, _ := w.AddToken(w.AddUser("guest@example.com", false), "", time.Hour)
	cfg := patConfig(w.URL())
	cfg.Token = Secret(token)
	guest := newClient(t, cfg)
	ctx := t.Context()
	require.NoError(t, admin.CreateScope(ctx, Scope{Name: "s"}, ""))
	require.NoError(t, admin.PutSecretString(ctx, "s", "k", "v"))

	get := func(c *Client, scope, key string) error {
		_, err := c.GetSecret(ctx, scope, key)
		return err
	}
	list := func(c *Client, scope string) error {
		_, err := c.ListSecrets(ctx, scope)
		return err
	}
	acl := func(c *Client, scope, principal string) error {
		_, err := c.GetACL(ctx, scope, principal)
		return err
	}
	acls := func(c *Client, scope string) error {
		_, err := c.ListACLs(ctx, scope)
		return err
	}
	table := []struct {
		name string
		err  error
		kind Kind
		code string
	}{
		{"scope exists", admin.CreateScope(ctx, Scope{Name: "S"}, ""), Refused, "RESOURCE_ALREADY_EXISTS"},
		{"too many scopes", admin.CreateScope(ctx, Scope{Name: "t"}, ""), QuotaExceeded, "RESOURCE_LIMIT_EXCEEDED"},
		{"bad scope", admin.CreateScope(ctx, Scope{Name: "a b"}, ""), Refused, "INVALID_PARAMETER_VALUE"},
		{"bad manager", admin.CreateScope(ctx, Scope{Name: "t"}, "admins"), Refused, "INVALID_PARAMETER_VALUE"},
		{"reserved scope", admin.CreateScope(ctx, Scope{Name: "databricks-reserved-x"}, ""), Refused, "CUSTOMER_UNAUTHORIZED"},
		{"no vault for a PAT", admin.CreateScope(ctx, Scope{Name: "t", BackendType: BackendAzureKeyVault}, ""), Refused, "INVALID_PARAMETER_VALUE"},
		{"delete no scope", admin.DeleteScope(ctx, "t"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"put in no scope", admin.PutSecretString(ctx, "t", "k", "v"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"too many secrets", admin.PutSecretString(ctx, "s", "l", "v"), QuotaExceeded, "RESOURCE_LIMIT_EXCEEDED"},
		{"bad key", admin.PutSecretString(ctx, "s", "a b", "v"), Refused, "INVALID_PARAMETER_VALUE"},
		{"too large", admin.PutSecretBytes(ctx, "s", "k", make([]byte, MaxSecretValue+1)), Refused, "INVALID_PARAMETER_VALUE"},
		{"delete no secret", admin.DeleteSecret(ctx, "s", "l", nil), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"delete in no scope", admin.DeleteSecret(ctx, "t", "k", nil), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"get no secret", get(admin, "s", "l"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"list no scope", list(admin, "t"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"grant on no scope", admin.PutACL(ctx, "t", ACL{"users", "READ"}), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"grant to nobody", admin.PutACL(ctx, "s", ACL{"nobody", "READ"}), Refused, "INVALID_PARAMETER_VALUE"},
		{"grant of nothing", admin.PutACL(ctx, "s", ACL{"users", "OWN"}), Refused, "INVALID_PARAMETER_VALUE"},
		{"delete no grant", admin.DeleteACL(ctx, "s", "users"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"get no grant", acl(admin, "s", "users"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"grants of no scope", acls(admin, "t"), NotFound, "RESOURCE_DOES_NOT_EXIST"},
		{"guest deletes", guest.DeleteScope(ctx, "s"), PermissionDenied, "PERMISSION_DENIED"},
		{"guest puts", guest.PutSecretString(ctx, "s", "k", "v"), PermissionDenied, "PERMISSION_DENIED"},
		{"guest gets", get(guest, "s", "k"), PermissionDenied, "PERMISSION_DENIED"},
		{"guest lists", list(guest, "s"), PermissionDenied, "PERMISSION_DENIED"},
		{"guest grants", guest.PutACL(ctx, "s", ACL{"users", "READ"}), PermissionDenied, "PERMISSION_DENIED"},
		{"guest lists grants", acls(guest, "s"), PermissionDenied, "PERMISSION_DENIED"},
	}
	for _, row := range table {
		e := failureOf(t, row.err)
		require.Equal(t, row.kind.String(), e.Kind.String(), "%s: %v", row.name, row.err)
		require.Equal(t, row.code, e.ErrorCode, row.name)
		require.True(t, e.Unprocessed, row.name)
	}
}

func TestReservedScopeDoesNotCostTheAccessToken(t *testing.T) {
	t.Parallel()
	s := newServer(t, healthy, answer(401, envelope("CUSTOMER_UNAUTHORIZED", "Scope x is reserved")))
	c := newClient(t, oauthConfig(s.URL))
	err := c.CreateScope(t.Context(), Scope{Name: "x"}, "")
	require.Equal(t, Refused, failureOf(t, err).Kind)
	require.NotContains(t, err.Error(), "credential")
	require.NoError(t, c.DeleteScope(t.Context(), "x"))
	require.EqualValues(t, 3, s.requests.Load(), "one for the token, one a call")
}

func TestSecretCallsAreRepeated(t *testing.T) {
	t.Parallel()
	faults := map[string]http.HandlerFunc{
		"reset": reset,
		"truncated": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, emptyObject)
		},
		"429": answer(429, envelope("REQUEST_LIMIT_EXCEEDED", "slow down")),
		"500": answer(500, envelope("INTERNAL_ERROR", "no")),
		"502": answer(502, "<html>bad gateway</html>"),
		"503": answer(503, ""),
		"504": answer(504, envelope("DEADLINE_EXCEEDED", "no")),
	}
	for name, fault := range faults {
		for _, call := range secretCalls {
			t.Run(name+"/"+call.op, func(t *testing.T) {
				t.Parallel()
				var bodies []string
				keep := func(next http.HandlerFunc) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						sent, _ := io.ReadAll(r.Body)
						bodies = append(bodies, string(sent)) // the requests of one call come one after the other
						next(w, r)
					}
				}
				s := newServer(t, keep(fault), keep(answer(200, call.answer)))
				require.NoError(t, call.do(t.Context(), newClient(t, patConfig(s.URL))))
				require.EqualValues(t, 2, s.requests.Load())
				require.Equal(t, bodies[0], bodies[1], "the whole request is repeated")
			})
		}
	}
}

func TestSlowSecretCallsAreRepeated(t *testing.T) {
	t.Parallel()
	for _, call := range secretCalls {
		var requests int
		handler := func(w http.ResponseWriter, r *http.Request) {
			if requests++; requests == 1 {
				hang(w, r)
				return
			}
			answer(200, call.answer)(w, r)
		}
		bubble(t, patConfig(localhost), handler, func(t *testing.T, c *Client) {
			require.NoError(t, call.do(t.Context(), c))
			require.Equal(t, 2, requests)
		})
	}
}

func TestSecretCallsGiveUp(t *testing.T) {
	t.Parallel()
	for _, call := range secretCalls {
		s := newServer(t, reset, reset, answer(503, ""), answer(200, call.answer))
		e := failureOf(t, call.do(t.Context(), newClient(t, patConfig(s.URL))))
		require.Equal(t, Unavailable, e.Kind)
		require.False(t, e.Unprocessed)
		require.EqualValues(t, 3, s.requests.Load())
	}
}

func TestLostRepliesOfSecretCalls(t *testing.T) {
	t.Parallel()
	w, c := simulated(t)
	ctx := t.Context()
	lose := func(path string) *simulator.InjectedFault {
		return w.Inject(simulator.Fault{Path: "/api/2.0/secrets/" + path, Times: 1, Reset: true, AfterEffect: true})
	}

	lost := lose("scopes/create")
	e := failureOf(t, c.CreateScope(ctx, Scope{Name: "s"}, ""))
	require.Equal(t, Refused, e.Kind)
	require.Equal(t, "RESOURCE_ALREADY_EXISTS", e.ErrorCode)
	require.False(t, e.Unprocessed, "it may be the scope that the first attempt made, as here")
	require.Equal(t, 1, lost.Hits())
	require.Len(t, w.Scopes(), 1)
	e = failureOf(t, c.CreateScope(ctx, Scope{Name: "s"}, ""))
	require.True(t, e.Unprocessed, "now it certainly is another's")

	lost = lose("put")
	require.NoError(t, c.PutSecretString(ctx, "s", "k", "v"))
	require.Equal(t, 1, lost.Hits())
	require.Equal(t, "v", string(w.Scopes()[0].Secrets["k"].Value))

	lost = lose("acls/put")
	require.NoError(t, c.PutACL(ctx, "s", ACL{"users", "READ"}))
	require.Equal(t, 1, lost.Hits())

	for path, remove := range map[string]func() error{
		"acls/delete": func() error { return c.DeleteACL(ctx, "s", "users") },
		"delete":      func() error { return c.DeleteSecret(ctx, "s", "k", nil) },
	} {
		lost = lose(path)
		e = failureOf(t, remove())
		require.Equal(t, NotFound, e.Kind, path)
		require.False(t, e.Unprocessed, path)
		require.Equal(t, 1, lost.Hits())
	}
	require.Empty(t, w.Scopes()[0].Secrets)
	require.NotContains(t, w.Scopes()[0].ACLs, "users")

	lose("scopes/delete")
	require.Equal(t, NotFound, failureOf(t, c.DeleteScope(ctx, "s")).Kind)
	require.Empty(t, w.Scopes())
}
