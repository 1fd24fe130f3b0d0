// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

// OAuthToken is the name of the type of OAuth access tokens.
const OAuthToken = "oauth_token"

const (
	// stepSecretLife is the lifetime of the temporary OAuth secret with which an access token of a named service principal is
	// made. The secret is deleted immediately after; its lifetime is for when that fails.
	stepSecretLife = 2 * time.Minute

	// stepSecretBudget limits its deletion.
	stepSecretBudget = 15 * time.Second

	// stepSecretSlots is how many of them a mount has at most for one service principal, which can have MaxOAuthSecrets in
	// all: further mints wait.
	stepSecretSlots = 2
)

// oauthTokenCredential is an OAuth access token, of the engine's own identity or of a named service principal. Databricks can't
// revoke one: it expires after an hour.
type oauthTokenCredential struct{ described }

var _ Type = oauthTokenCredential{}

var oauthTokenTraits = Traits{
	Name:      OAuthToken,
	Summary:   "an OAuth access token of the engine's identity or of a service principal",
	Principal: Optional, Assumes: true, EndsByItself: true, Plural: "access tokens", Textless: true, Lifetime: stepSecretLife, Slots: stepSecretSlots,
	answer: map[string]*framework.FieldSchema{
		fieldAccessToken: secretField("The access token."),
		fieldTokenType:   textField("Bearer."),
		fieldScopes:      scopesSchema,
	},
}

func (oauthTokenCredential) Fits(conn Conn, spec Spec) error {
	if err := fitsAssumed(conn, spec); err != nil {
		return err
	}
	switch {
	case spec.Named():
	case conn.AuthType() == client.AuthPAT:
		return &FieldError{fieldCredentialType, "the mount is connected with a personal access token, which can't be exchanged for an access token of the engine's identity; name a service principal, or connect the mount with OAuth"}
	case conn.AuthType() == client.AuthAzureClientSecret && len(spec.Scopes) > 0:
		return &FieldError{fieldScopes, "access tokens of Entra ID, which the mount is connected with, can't be narrowed; leave the scopes out, or name a service principal"}
	}
	return nil
}

func (oauthTokenCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	rights := client.TokenRights{Scopes: r.Scopes, GroupID: r.Assumed.ID}
	if r.ServicePrincipalID == "" {
		token, err := conn.Client().OwnAccessToken(ctx, rights)
		if err != nil {
			return nil, explainAssumed(err, "the engine's identity", r.Spec)
		}
		return mintedAccessToken(token, r.Scopes, false), nil
	}

	var token *client.AccessToken
	left, err := throughSecret(ctx, conn, r, rights, func(made *client.AccessToken) error {
		token = made
		return nil
	})
	if err != nil {
		return nil, err
	}
	return mintedAccessToken(token, r.Scopes, left), nil
}

// throughSecret makes an access token of the service principal that the request names, by an OAuth secret that lives until use has returned. left
// is true if the secret, or a duplicate of it, may be left, which is then for the rollback.
func throughSecret(ctx context.Context, conn Conn, r Request, rights client.TokenRights, use func(*client.AccessToken) error) (left bool, err error) {
	// Nobody else gets the secret, and the token is asked for with the scopes, so a workspace that doesn't know those of secrets will do.
	secret, err := conn.Client().CreateOAuthSecret(ctx, r.ServicePrincipalID, r.Lifetime, r.Scopes)
	if err != nil {
		return false, explainSecretQuota(ctx, conn, r.Spec, err)
	}
	token, err := conn.Client().AccessTokenFor(ctx, r.ApplicationID, secret.Value, rights)
	if err != nil {
		err = fmt.Errorf("make an access token of service principal %s: %w", r.ApplicationID, explainAssumed(err, "service principal "+r.ApplicationID, r.Spec))
	} else {
		err = use(token)
	}
	// The secret is deleted in any case, even if there is no time left for anything else.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepSecretBudget)
	defer cancel()
	deleteErr := deleteOAuthSecret(last, conn, r.ServicePrincipalID, secret.ID)
	left = deleteErr != nil || secret.Retried
	if err != nil {
		return left, &partialError{errors.Join(err, deleteErr), !left}
	}
	return left, nil
}

// mintedAccessToken returns a new access token as a Credential. Its ID matches nothing at Databricks: a rollback has no token
// to keep. Scopes are those that were asked for, none for all.
func mintedAccessToken(token *client.AccessToken, scopes []string, duplicate bool) *Credential {
	shown := shownScopes(scopes, token.Scopes)
	if len(shown) == 0 {
		shown = []string{allAPIs}
	}
	return &Credential{
		ID: "none", Lifetime: token.Lifetime, Duplicate: duplicate, Secret: fieldAccessToken,
		Data: map[string]any{
			fieldAccessToken: token.Value.Reveal(),
			fieldTokenType:   token.Type,
			fieldScopes:      shown,
		},
		Unfit:   widened("access token", "not handed out, and ends by itself", scopes, token.Scopes),
		Warning: unconfirmed("access token", scopes, token.Scopes),
	}
}

func (oauthTokenCredential) Undo(ctx context.Context, conn Conn, _ Access, lists Lists, lost Lost) ([]string, error) {
	if lost.ServicePrincipalID == "" {
		return nil, nil
	}
	return undoOAuthSecret(ctx, conn, lists, lost)
}

// Revoke does nothing: Databricks can't revoke an access token.
func (oauthTokenCredential) Revoke(context.Context, Conn, Access, Ref) error { return nil }

func (oauthTokenCredential) Warnings(known Known, spec Spec) []string {
	all := []string{"Databricks can't revoke access tokens: one lives for its hour, even if its lease is revoked, and the lease can't be renewed either."}
	if spec.Named() {
		all = append(all, secretWarnings(known, spec)...)
	}
	switch {
	case spec.Assumed.ID != "":
		all = append(all, assumedWarnings(spec)...)
	case spec.Named():
		all = append(all, principalWarnings(known, spec)...)
	default:
		all = append(all, adminWarnings(known, spec)...)
	}
	return append(all, scopeWarnings(spec)...)
}
