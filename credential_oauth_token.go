// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

const credentialOAuthToken = "oauth_token"

const (
	// stepSecretLife is how long the secret lives at most through which an access token of a named service principal is
	// made. It is deleted at once; this is for when that fails.
	stepSecretLife = 2 * time.Minute

	// stepSecretBudget is how long its deletion may take.
	stepSecretBudget = 15 * time.Second

	// stepSecretsAtOnce is how many of them a mount has at most for one service principal, which can have maxOAuthSecrets in
	// all: who asks for more waits.
	stepSecretsAtOnce = 2
)

// oauthTokenCredential is an OAuth access token, of the engine's own identity or of a named service principal. Databricks
// can't revoke one: it ends by itself after an hour.
type oauthTokenCredential struct{ described }

var _ credentialType = oauthTokenCredential{}

var oauthTokenTraits = traits{
	name:      credentialOAuthToken,
	summary:   "an OAuth access token of the engine's identity or of a service principal",
	principal: optional, endsByItself: true, textless: true, lifetime: stepSecretLife, slots: stepSecretsAtOnce,
	answer: map[string]*framework.FieldSchema{
		keyAccessToken: secretAnswerField("The access token."),
		keyTokenType:   {Type: framework.TypeString, Description: "Bearer."},
	},
	secret: keyAccessToken,
}

func (oauthTokenCredential) fits(conn *connection, spec credentialSpec) error {
	switch {
	case spec.named():
	case conn.config.AuthType == client.AuthPAT:
		return badField(keyCredentialType, "the mount is connected with a personal access token, which can't be exchanged for an access token of the engine's identity; name a service principal, or connect the mount with OAuth")
	case conn.config.AuthType == client.AuthAzureClientSecret && len(spec.scopes) > 0:
		return badField(keyScopes, "access tokens of Entra ID, which the mount is connected with, can't be narrowed; leave the scopes out, or name a service principal")
	}
	return nil
}

func (oauthTokenCredential) mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error) {
	if r.servicePrincipalID == "" {
		token, err := conn.client.OwnAccessToken(ctx, r.scopes)
		if err != nil {
			return nil, err
		}
		return mintedAccessToken(token, false), nil
	}

	secret, err := conn.client.CreateOAuthSecret(ctx, r.servicePrincipalID, r.lifetime, r.scopes)
	if err != nil {
		return nil, explainSecretQuota(ctx, conn, r.servicePrincipalID, err)
	}
	token, err := conn.client.AccessTokenFor(ctx, r.applicationID, secret.Value, r.scopes)
	// Whatever came of it, the secret goes, even if there is no time left for anything else.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepSecretBudget)
	defer cancel()
	deleteErr := deleteOAuthSecret(last, conn, r.servicePrincipalID, secret.ID)
	// A secret that is still there, or a twin of it, is the rollback's.
	left := deleteErr != nil || secret.Retried
	if err != nil {
		err = fmt.Errorf("make an access token of service principal %s: %w", r.applicationID, err)
		return nil, &halfway{errors.Join(err, deleteErr), !left}
	}
	return mintedAccessToken(token, left), nil
}

// mintedAccessToken is a new access token. No rollback has one to keep.
func mintedAccessToken(token *client.AccessToken, twin bool) *minted {
	return &minted{
		id: "none", lifetime: token.Lifetime, twin: twin, secret: keyAccessToken,
		data: map[string]any{
			keyAccessToken: token.Value.Reveal(),
			keyTokenType:   token.Type,
			keyScopes:      append([]string{}, token.Scopes...),
		},
	}
}

func (oauthTokenCredential) undo(ctx context.Context, conn *connection, _ reach, _ *pass, lost lostCredential) ([]string, error) {
	if lost.servicePrincipalID == "" {
		return nil, nil
	}
	return undoOAuthSecret(ctx, conn, lost)
}

// revoke does nothing: Databricks has no way to end an access token.
func (oauthTokenCredential) revoke(context.Context, *connection, reach, credentialRef) error {
	return nil
}

func (oauthTokenCredential) warnings(identity *client.Identity, spec credentialSpec) []string {
	all := []string{"Databricks can't revoke access tokens: one lives for its hour, whatever becomes of its lease, which can't be renewed either."}
	if !spec.named() {
		all = append(all, adminWarnings(identity)...)
	}
	return append(all, scopeWarnings(spec)...)
}
