// SPDX-License-Identifier: MPL-2.0

package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder answers with a body and keeps the last request.
type recorder struct {
	*server
	last atomic.Value // of recorded
}

type recorded struct{ method, path, body string }

func record(t testing.TB, body string, headers ...string) *recorder {
	rec := &recorder{}
	handler := func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		rec.last.Store(recorded{r.Method, r.URL.Path, string(sent)})
		answer(200, body, headers...)(w, r)
	}
	rec.server = newServer(t, handler, handler)
	return rec
}

func TestCreateToken(t *testing.T) {
	t.Parallel()
	rec := record(t, createdBody)
	c := newClient(t, patConfig(rec.URL))
	before := time.Now()
	created, err := c.CreateToken(t.Context(), CreateTokenRequest{Comment: "vault <&> é", Lifetime: 90 * time.Minute, Scopes: []string{"sql", "clusters"}})
	require.NoError(t, err)
	require.Equal(t, &CreatedToken{
		Value: mintedToken,
		Info: TokenInfo{
			TokenID:      mintedID,
			Comment:      "vault",
			CreationTime: time.UnixMilli(1580265020299).UTC(),
			ExpiryTime:   time.UnixMilli(1580351420299).UTC(),
			Scopes:       []string{"sql"},
		},
	}, created)
	require.NotContains(t, fmt.Sprintf("%+v", created), mintedToken)
	require.False(t, c.LastSuccess().Before(before.Truncate(0)))

	sent := rec.last.Load().(recorded)
	require.Equal(t, "POST /api/2.0/token/create", sent.method+" "+sent.path)
	var body map[string]any
	require.NoError(t, json.Unmarshal([]byte(sent.body), &body))
	require.Equal(t, map[string]any{"comment": "vault <&> é", "lifetime_seconds": 5400.0, "scopes": []any{"sql", "clusters"}}, body)
}

func TestLifetimeMustBeWholeAndPositive(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	for _, lifetime := range []time.Duration{0, -time.Second, time.Millisecond, 1500 * time.Millisecond} {
		_, err := c.CreateToken(t.Context(), CreateTokenRequest{Lifetime: lifetime})
		e := failureOf(t, err)
		require.True(t, e.Unprocessed)
		require.Equal(t, "token/create: the request was not sent: the lifetime must be a positive number of whole seconds, not "+lifetime.String(), err.Error())
	}
	require.Zero(t, s.requests.Load())
}

func TestListTokens(t *testing.T) {
	t.Parallel()
	rec := record(t, `{"token_infos":[{"token_id":"a","creation_time":"1580265020299","expiry_time":-1},{"token_id":"b","comment":"c","expiry_time":1580351420299}],"unknown":1}`)
	c := newClient(t, patConfig(rec.URL))
	infos, err := c.ListTokens(t.Context())
	require.NoError(t, err)
	require.Len(t, infos, 2)
	require.Equal(t, "a", infos[0].TokenID)
	require.Equal(t, time.UnixMilli(1580265020299).UTC(), infos[0].CreationTime, "decimals in texts are numbers, too")
	require.True(t, infos[0].ExpiryTime.IsZero(), "-1 is never")
	require.Equal(t, "c", infos[1].Comment)
	require.Equal(t, recorded{"GET", "/api/2.0/token/list", ""}, rec.last.Load())

	infos, err = newClient(t, patConfig(record(t, emptyObject).URL)).ListTokens(t.Context())
	require.NoError(t, err)
	require.Empty(t, infos)

	for _, body := range []string{"", "[]", "null", `"x"`} {
		_, err = newClient(t, patConfig(record(t, body).URL)).ListTokens(t.Context())
		require.Equal(t, Unavailable, failureOf(t, err).Kind, "%q must not pass for an empty list", body)
	}
}

func TestManagedTokens(t *testing.T) {
	t.Parallel()
	const info = `{"token_id":"a","comment":"c","creation_time":1580265020299,"expiry_time":1580351420299,"owner_id":7,"created_by_id":8,"created_by_username":"admin@example.com","last_used_day":1580256000000,"scopes":["sql"]}`
	want := TokenInfo{
		TokenID: "a", Comment: "c", Scopes: []string{"sql"},
		CreationTime: time.UnixMilli(1580265020299).UTC(), ExpiryTime: time.UnixMilli(1580351420299).UTC(),
		OwnerID: 7, CreatedByID: 8, CreatedByUsername: "admin@example.com", LastUsedDay: time.UnixMilli(1580256000000).UTC(),
	}
	rec := record(t, `{"token_infos":[`+info+`]}`)
	infos, err := newClient(t, patConfig(rec.URL)).ListManagedTokens(t.Context())
	require.NoError(t, err)
	require.Equal(t, []TokenInfo{want}, infos)
	require.Equal(t, recorded{"GET", "/api/2.0/token-management/tokens", ""}, rec.last.Load())

	rec = record(t, `{"token_info":`+info+`}`)
	got, err := newClient(t, patConfig(rec.URL)).GetManagedToken(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, &want, got)
	require.Equal(t, recorded{"GET", "/api/2.0/token-management/tokens/a", ""}, rec.last.Load())

	_, err = newClient(t, patConfig(record(t, emptyObject).URL)).GetManagedToken(t.Context(), "a")
	require.Equal(t, Unavailable, failureOf(t, err).Kind)
	_, err = newClient(t, patConfig(newServer(t, answer(403, envelope("PERMISSION_DENIED", "no"))).URL)).ListManagedTokens(t.Context())
	require.Equal(t, PermissionDenied, failureOf(t, err).Kind)

	rec = record(t, "")
	require.NoError(t, newClient(t, patConfig(rec.URL)).DeleteManagedToken(t.Context(), "a"))
	require.Equal(t, recorded{"DELETE", "/api/2.0/token-management/tokens/a", ""}, rec.last.Load())
}

func TestDeleteToken(t *testing.T) {
	t.Parallel()
	rec := record(t, emptyObject)
	require.NoError(t, newClient(t, patConfig(rec.URL)).DeleteToken(t.Context(), "a"))
	require.Equal(t, recorded{"POST", "/api/2.0/token/delete", `{"token_id":"a"}`}, rec.last.Load())
}

func TestTokenIDsAreChecked(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := newClient(t, patConfig(s.URL))
	for _, id := range []string{"", ".", "..", "a/b", "a?b", "a b", "a%2fb", "é", strings.Repeat("a", 129)} {
		_, err := c.GetManagedToken(t.Context(), id)
		for _, err := range []error{err, c.DeleteToken(t.Context(), id), c.DeleteManagedToken(t.Context(), id)} {
			e := failureOf(t, err)
			require.Equal(t, Refused, e.Kind)
			require.True(t, e.Unprocessed)
			require.Contains(t, err.Error(), "can't be a token id")
		}
	}
	require.Zero(t, s.requests.Load())
}

func TestMe(t *testing.T) {
	t.Parallel()
	rec := record(t, `{"id":"42","userName":"admin@example.com","displayName":"Admin","groups":[{"display":"users"},{"display":"admins"}]}`, "X-Databricks-Org-Id", "900800700600")
	who, err := newClient(t, patConfig(rec.URL)).Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Identity{ID: "42", UserName: "admin@example.com", DisplayName: "Admin", Admin: true, Groups: []string{"users", "admins"}, WorkspaceID: "900800700600"}, who)
	require.Equal(t, recorded{"GET", "/api/2.0/preview/scim/v2/Me", ""}, rec.last.Load())

	who, err = newClient(t, patConfig(record(t, `{"id":"43","userName":"6F5CCF28-d83a-4957-9bfb-5bbfac551410","groups":[{"display":"not-admins"}]}`).URL)).Me(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Identity{ID: "43", UserName: "6F5CCF28-d83a-4957-9bfb-5bbfac551410", ServicePrincipal: true, Groups: []string{"not-admins"}}, who)

	c := newClient(t, patConfig(record(t, emptyObject).URL))
	_, err = c.Me(t.Context())
	require.Equal(t, Unavailable, failureOf(t, err).Kind, "an answer without an identity proves nothing")
	require.True(t, c.LastSuccess().IsZero())
}

func TestIdentityIsStored(t *testing.T) {
	t.Parallel()
	for _, who := range []Identity{
		{},
		{ID: "42", UserName: "admin@example.com", DisplayName: "Admin", Admin: true, Groups: []string{"users", "admins", "é <&>"}, WorkspaceID: "900800700600"},
		{ID: "43", UserName: "6f5ccf28-d83a-4957-9bfb-5bbfac551410", ServicePrincipal: true},
	} {
		stored, err := json.Marshal(who)
		require.NoError(t, err)
		var read Identity
		require.NoError(t, json.Unmarshal(stored, &read))
		require.Equal(t, who, read)
	}
	stored, err := json.Marshal(Identity{ID: "1", UserName: "u", DisplayName: "d", ServicePrincipal: true, Admin: true, Groups: []string{"g"}, WorkspaceID: "2"})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"1","user_name":"u","display_name":"d","service_principal":true,"admin":true,"groups":["g"],"workspace_id":"2"}`, string(stored))
}

func TestCounters(t *testing.T) {
	t.Parallel()
	s := newServer(t, answer(429, ""), answer(503, ""), healthy, answer(400, envelope("QUOTA_EXCEEDED", "no")))
	cfg := patConfig(s.URL)
	cfg.Counters = &Counters{}
	require.Empty(t, cfg.Counters.Snapshot())
	c := newClient(t, cfg)
	_, err := c.CreateToken(t.Context(), aMinute)
	require.NoError(t, err)
	_, err = c.CreateToken(t.Context(), aMinute)
	require.Error(t, err)
	require.NoError(t, c.DeleteToken(t.Context(), mintedID))
	counts := cfg.Counters.Snapshot()
	require.Len(t, counts, 2)
	create := counts[opTokenCreate]
	require.Positive(t, create.Mean)
	require.GreaterOrEqual(t, create.Max, create.Mean)
	create.Mean, create.Max = 0, 0
	require.Equal(t, OpCounts{Calls: 2, Errors: 1, Retries: 2, Throttled: 1}, create)
	require.EqualValues(t, 1, counts[opTokenDelete].Calls)
}

func BenchmarkCreateToken(b *testing.B) {
	create := func(b *testing.B) func() {
		c := newClient(b, patConfig(newServer(b).URL))
		return func() {
			if _, err := c.CreateToken(b.Context(), aMinute); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("serial", func(b *testing.B) {
		once := create(b)
		b.ReportAllocs()
		for b.Loop() {
			once()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		once := create(b)
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				once()
			}
		})
	})
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(patConfig("https://dbc-1.cloud.databricks.com")); err != nil {
			b.Fatal(err)
		}
	}
}
