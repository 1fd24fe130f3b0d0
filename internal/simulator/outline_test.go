// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestTheOutlineShowsWhatLivesAndWhoOwnsIt(t *testing.T) {
	t.Parallel()
	now := newClock()
	w, root := withRoot(t, simulator.WithClock(now.Now))
	sp := w.AddServicePrincipal("pipelines", false)
	w.AddGroup("engineers", sp)
	secretID, secret := w.AddOAuthSecret(sp, 2*time.Hour)
	require.Equal(t, 200, grant(t, w, sp.ApplicationID, secret, "").status)
	now.advance(time.Second)
	_, id := mint(t, w, root, `{"comment":"for an hour","lifetime_seconds":3600,"scopes":["sql"]}`)
	w.AddScope("Etl", sp)
	w.PutACL("etl", "engineers", "READ")
	w.AddUCSchema("Main", "App", sp)
	w.PutUCSecret("main.app.api-key", "not-to-be-seen", sp)

	o := w.Outline(100)
	require.Equal(t, simulator.OutlineTotals{Credentials: 4, Principals: 2, Groups: 2, Scopes: 1, UCSecrets: 1}, o.Totals)
	newest := o.Credentials[0]
	require.Equal(t, simulator.OutlineCredential{
		ID: id[:12], Kind: simulator.KindPAT, Comment: "for an hour", Owner: "alice@example.com", Scopes: "sql", Created: newest.Created, Expires: newest.Created + 3_600_000,
	}, newest)
	kinds := map[string]int{}
	for _, c := range o.Credentials {
		kinds[c.Kind]++
	}
	require.Equal(t, map[string]int{"pat": 2, "oauth": 1, "oauth_secret": 1}, kinds)
	require.Equal(t, "pipelines", o.Principals[0].Name)
	require.Equal(t, 1, o.Principals[0].OAuthSecrets)
	require.Equal(t, "engineers", o.Principals[0].Groups)
	require.Equal(t, 2, o.Principals[1].Tokens)
	require.Equal(t, simulator.OutlineGroup{Name: "engineers", Members: []string{"pipelines"}, Count: 1}, o.Groups[1])
	require.Equal(t, "Etl", o.Scopes[0].Name)
	require.ElementsMatch(t, []simulator.OutlineACL{{Principal: "engineers", Permission: "READ"}, {Principal: "pipelines", Permission: "MANAGE"}}, o.Scopes[0].ACLs)
	require.Equal(t, "main.app", o.Schemas[0].Name)
	require.Equal(t, "api-key", o.Schemas[0].Keys[0].Name)
	shown, err := json.Marshal(o)
	require.NoError(t, err)
	for _, value := range []string{root, secret, secretID, id, "not-to-be-seen"} {
		require.NotContains(t, string(shown), value)
	}

	now.advance(time.Hour)
	require.Equal(t, 2, w.Outline(100).Totals.Credentials) // the token and the access token have expired
	w.RevokeOAuthSecret(secretID)
	require.Equal(t, 1, w.Outline(100).Totals.Credentials)
}

func TestTheOutlineIsCutToItsLimit(t *testing.T) {
	t.Parallel()
	now := newClock()
	w, _ := withRoot(t, simulator.WithClock(now.Now))
	for i := range 7 {
		p := w.AddUser(fmt.Sprint(i, "@example.com"), false)
		now.advance(time.Second)
		w.AddToken(p, fmt.Sprint(i), time.Hour)
		w.AddGroup(fmt.Sprint(i), p)
		w.AddScope(fmt.Sprint(i), p)
		w.AddUCSchema("main", fmt.Sprint(i), p)
		w.PutUCSecret(fmt.Sprint("main.", i, ".x"), "", p)
	}
	o := w.Outline(3)
	require.Equal(t, simulator.OutlineTotals{Credentials: 8, Principals: 8, Groups: 8, Scopes: 7, UCSecrets: 7}, o.Totals)
	require.Len(t, o.Principals, 3)
	require.Len(t, o.Groups, 3)
	require.Len(t, o.Scopes, 3)
	require.Len(t, o.Schemas, 3)
	require.Len(t, o.Credentials, 3)
	require.Equal(t, "6", o.Credentials[0].Comment)
	require.Equal(t, "4", o.Credentials[2].Comment)
}
