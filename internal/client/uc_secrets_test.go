// SPDX-License-Identifier: MPL-2.0

package client

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestUCSecretsOnTheWire(t *testing.T) {
	t.Parallel()
	var method, uri, body string
	record := func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		method, uri, body = r.Method, r.URL.RequestURI(), string(raw)
		answer(200, `{"name":"k%","catalog_name":"main","schema_name":"app","effective_owner":"a@x.io","create_time":"2026-07-31T00:00:00Z","created_by":"b@x.io","update_time":"2026-08-01T02:00:00.123456+02:00","updated_by":"c@x.io","metastore_id":"m1"}`)(w, r)
	}
	s := newServer(t, record, record, record, record)
	c := newClient(t, patConfig(s.URL))
	comment := ""
	secret, err := c.CreateUCSecret(t.Context(), "main.app.k%", UCSecretWrite{Value: "", Owner: "a@x.io"}, false)
	require.NoError(t, err)
	require.Equal(t, "POST /api/2.1/unity-catalog/secrets", method+" "+uri)
	require.JSONEq(t, `{"name":"k%","catalog_name":"main","schema_name":"app","value":"","owner":"a@x.io"}`, body)
	require.Equal(t, &UCSecret{
		Name: "k%", Owner: "a@x.io", Created: time.Date(2026, 7, 31, 0, 0, 0, 0, time.UTC), CreatedBy: "b@x.io",
		Updated: time.Date(2026, 8, 1, 0, 0, 0, 123456000, time.UTC), UpdatedBy: "c@x.io", Metastore: "m1",
	}, secret)

	_, err = c.UpdateUCSecret(t.Context(), "main.app.k%", UCSecretWrite{Value: "v", Comment: &comment})
	require.NoError(t, err)
	require.Equal(t, "PATCH /api/2.1/unity-catalog/secrets/main.app.k%25?update_mask=value%2Ccomment", method+" "+uri)
	require.JSONEq(t, `{"name":"k%","catalog_name":"main","schema_name":"app","value":"v","comment":""}`, body)

	_, err = c.GetUCSecret(t.Context(), "main.app.k%", true)
	require.NoError(t, err)
	require.Equal(t, "GET /api/2.1/unity-catalog/secrets/main.app.k%25?include_value=true", method+" "+uri)
	require.NoError(t, c.DeleteUCSecret(t.Context(), "main.app.k%", nil))
	require.Equal(t, "DELETE /api/2.1/unity-catalog/secrets/main.app.k%25", method+" "+uri)
	require.Empty(t, body)
}

func TestUCSecretsErrorsByCode(t *testing.T) {
	t.Parallel()
	for code, row := range map[string]struct {
		status int
		kind   Kind
		taken  bool
	}{
		"RESOURCE_DOES_NOT_EXIST":  {404, NotFound, false},
		"SECRET_DOES_NOT_EXIST":    {404, NotFound, false},
		"SCHEMA_DOES_NOT_EXIST":    {404, NotFound, false},
		"CATALOG_DOES_NOT_EXIST":   {404, NotFound, false},
		"METASTORE_DOES_NOT_EXIST": {404, Refused, false},
		"PRINCIPAL_DOES_NOT_EXIST": {404, Refused, false},
		"ENDPOINT_NOT_FOUND":       {404, Refused, false},
		"FEATURE_DISABLED":         {400, Refused, false},
		"RESOURCE_ALREADY_EXISTS":  {409, Refused, true},
		"SECRET_ALREADY_EXISTS":    {400, Refused, true},
		"PERMISSION_DENIED":        {403, PermissionDenied, false},
		"QUOTA_EXCEEDED":           {400, QuotaExceeded, false},
	} {
		t.Run(code, func(t *testing.T) {
			s := newServer(t, answer(row.status, envelope(code, "the secret s3cr3t-s3cr3t is what was sent")))
			_, err := newClient(t, patConfig(s.URL)).UpdateUCSecret(t.Context(), "main.app.k", UCSecretWrite{Value: "s3cr3t-s3cr3t"})
			require.True(t, IsKind(err, row.kind), err)
			require.Equal(t, row.taken, IsTaken(err))
			require.NotContains(t, err.Error(), "s3cr3t-s3cr3t")
		})
	}
}

// A workspace without the API, or a gateway, says in many ways that there is no such path: that is no word about a secret.
func TestAMissingUCAPIIsNoAbsentSecret(t *testing.T) {
	t.Parallel()
	for body, kind := range map[string]Kind{
		envelope("ENDPOINT_NOT_FOUND", "Secret does not exist"):                                                  Refused,
		`{"error_code":404,"message":"Not Found"}`:                                                               Refused,
		`{"error_code":"404","message":"No API found for 'DELETE /unity-catalog/secrets/main.app.k'"}`:           Refused,
		`{"message":"No API found for 'DELETE /unity-catalog/secrets/main.app.k'"}`:                              Refused,
		`{"message":"Path /api/2.1/unity-catalog/secrets/main.app.k does not exist"}`:                            Refused,
		`{"message":"No route to the secret API"}`:                                                               Refused,
		`{"message":"Secret 'main.app.k' does not exist."}`:                                                      NotFound,
		`{"error_code":404,"message":"Schema 'main.app' does not exist."}`:                                       NotFound,
		`{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"/api/2.1/unity-catalog/secrets/main.app.k is gone"}`: NotFound,
	} {
		c := newClient(t, patConfig(newServer(t, answer(404, body), answer(404, body)).URL))
		err := c.DeleteUCSecret(t.Context(), "main.app.k", nil)
		require.True(t, IsKind(err, kind), "%s: %v", body, err)
		_, err = c.GetUCSecret(t.Context(), "main.app.k", false)
		require.True(t, IsKind(err, kind), "%s: %v", body, err)
	}
	body := `{"message":"No API found for 'POST /secrets/delete'"}`
	require.False(t, IsGone(newClient(t, patConfig(newServer(t, answer(404, body)).URL)).DeleteSecret(t.Context(), "etl", "k", nil)), "nor elsewhere")
}

// A repetition of a write that gives the secret away could be refused because the first one was carried out.
func TestAUCWriteWithAnotherOwnerIsNotRepeated(t *testing.T) {
	t.Parallel()
	write := UCSecretWrite{Value: "v", Owner: "a@x.io"}
	c := newClient(t, patConfig(newServer(t, answer(500, envelope("INTERNAL_ERROR", "no")), answer(500, envelope("INTERNAL_ERROR", "no"))).URL))
	_, err := c.UpdateUCSecret(t.Context(), "main.app.k", write)
	require.True(t, IsKind(err, Unavailable), err)
	_, err = c.CreateUCSecret(t.Context(), "main.app.k", write, false)
	require.True(t, IsKind(err, Unavailable), err)
}

func TestAUCSchemaIsCheckedByOnePage(t *testing.T) {
	t.Parallel()
	var query string
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		answer(200, `{"secrets":[{"name":"k"}],"next_page_token":"k"}`)(w, r)
	})
	require.NoError(t, newClient(t, patConfig(s.URL)).CheckUCSchema(t.Context(), "main", "app"))
	require.Equal(t, "catalog_name=main&page_size=1&schema_name=app", query)
}

// A create whose outcome is unknown is repeated, unless a repetition could be taken for a secret of somebody else.
func TestACreateOfAUCSecretIsRepeatedUnlessOnce(t *testing.T) {
	t.Parallel()
	for _, once := range []bool{false, true} {
		s := newServer(t, answer(500, envelope("INTERNAL_ERROR", "no")), answer(409, envelope("RESOURCE_ALREADY_EXISTS", "there")))
		_, err := newClient(t, patConfig(s.URL)).CreateUCSecret(t.Context(), "main.app.k", UCSecretWrite{Value: "v"}, once)
		require.Error(t, err)
		require.Equal(t, !once, IsTaken(err))
	}
}
