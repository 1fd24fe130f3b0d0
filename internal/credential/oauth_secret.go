// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
)

// OAuthSecret is the name of the type of OAuth secrets of existing service principals.
const OAuthSecret = "oauth_secret"

// MaxOAuthSecrets is how many OAuth secrets a service principal can have (Databricks guide "Authorize service principal access with
// OAuth").
const MaxOAuthSecrets = 5

// oauthSecretCredential is an OAuth secret of an existing service principal. It can't carry text, so its lifetime, exact to the
// second, and its creation time serve as its nonce: creates for one service principal that could be confused request different
// lifetimes.
type oauthSecretCredential struct{ described }

var _ Type = oauthSecretCredential{}

var oauthSecretTraits = Traits{
	Name:      OAuthSecret,
	Summary:   "an OAuth secret of a service principal",
	Principal: Required, Static: true, Textless: true, Limit: MaxOAuthSecrets,
	LeaseWarning: fmt.Sprintf("A service principal can have %d OAuth secrets, so at most %d leases of it can be alive at once. For more consumers use %s or %s.", MaxOAuthSecrets, MaxOAuthSecrets, OAuthToken, ServicePrincipal),
	answer:       oauthSecretAnswer,
}

// oauthSecretAnswer has the response fields of an OAuth secret.
var oauthSecretAnswer = map[string]*framework.FieldSchema{
	fieldClientID:     textField("Client id, which is the application id."),
	fieldClientSecret: secretField("The OAuth secret."),
	fieldSecretID:     textField("Id of the secret."),
	fieldScopes:       scopesSchema,
}

func (oauthSecretCredential) Fits(Conn, Spec) error { return nil }

func (oauthSecretCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	secret, err := conn.Client().CreateOAuthSecret(ctx, r.ServicePrincipalID, r.Lifetime, r.Scopes)
	if err != nil {
		return nil, explainSecretQuota(ctx, conn, r.Spec, err)
	}
	return mintedSecret(secret, r.ServicePrincipalID, r.ApplicationID, r.Scopes), nil
}

func (oauthSecretCredential) Undo(ctx context.Context, conn Conn, _ Access, lists Lists, lost Lost) ([]string, error) {
	return undoOAuthSecret(ctx, conn, lists, lost)
}

func (oauthSecretCredential) Revoke(ctx context.Context, conn Conn, _ Access, ref Ref) error {
	return deleteOAuthSecret(ctx, conn, ref.ServicePrincipalID, ref.ID)
}

func (oauthSecretCredential) Warnings(known Known, spec Spec) []string {
	return slices.Concat(secretWarnings(known, spec), principalWarnings(known, spec), scopeWarnings(spec))
}

// mintedSecret returns a new OAuth secret as a Credential. Scopes are those that were asked for.
func mintedSecret(secret *client.OAuthSecret, principalID, applicationID string, scopes []string) *Credential {
	m := &Credential{ID: secret.ID, ServicePrincipalID: principalID, Duplicate: secret.Retried, Secret: fieldClientSecret, Data: map[string]any{
		fieldClientID:     applicationID,
		fieldClientSecret: secret.Value.Reveal(),
		fieldSecretID:     secret.ID,
		fieldScopes:       shownScopes(scopes, secret.Scopes),
	}}
	m.Unfit = widened("OAuth secret", "removed again", scopes, secret.Scopes)
	if m.Warning = unconfirmed("OAuth secret", scopes, secret.Scopes); m.Warning != "" {
		m.Warning += fmt.Sprintf(" This workspace may not know scopes of OAuth secrets. To be sure of them, use %s of a named service principal.", OAuthToken)
	}
	m.Lifetime, m.Expires = Life(secret.CreateTime, secret.ExpireTime), secret.ExpireTime
	return m
}

// deleteOAuthSecret succeeds when the secret, or its service principal, is gone already. A workspace knows only its own service principals:
// the account may have one that was removed from the workspace, with its secrets, of which a warning is logged.
func deleteOAuthSecret(ctx context.Context, conn Conn, principalID, id string) error {
	err := conn.Client().DeleteOAuthSecret(ctx, principalID, id)
	if !client.IsGone(err) {
		return err
	}
	if !conn.Account() && principalGone(err) {
		conn.Warn("an OAuth secret could not be deleted, since its service principal is no longer in the workspace; if the account still has it, the secret works outside the workspace until it expires, and an account admin can delete it",
			"service_principal_id", principalID, "secret_id", id)
	}
	return nil
}

// principalGone reports whether the error of a secret that is gone says that its whole service principal is. There is no code for that.
func principalGone(err error) bool {
	var remote *client.Error
	if !errors.As(err, &remote) {
		return false
	}
	text := strings.ReplaceAll(strings.ToLower(remote.Message), " ", "")
	return strings.Contains(text, "serviceprincipal") && !strings.Contains(text, "secret")
}

// ErrAmbiguous means that what was left behind can't be told from what a lease holds. A retry doesn't change that.
var ErrAmbiguous = errors.New("so none is touched")

// undoOAuthSecret removes the secret whose creation was not completed, if exactly one fits. If several fit, none is touched:
// one may belong to a lease, and the other expires anyway.
func undoOAuthSecret(ctx context.Context, conn Conn, lists Lists, lost Lost) (removed []string, err error) {
	if lost.Lifetime == 0 {
		return nil, fmt.Errorf("more OAuth secrets of service principal %s were asked for at once than can be told apart, %w; if one was left, it ends by itself by %s", lost.ServicePrincipalID, ErrAmbiguous, rfc3339(lost.Expires))
	}
	secrets, err := lists.OAuthSecrets(ctx, conn, lost.ServicePrincipalID)
	if client.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var fitting, late []string
	for _, secret := range secrets {
		life := secret.ExpireTime.Sub(secret.CreateTime).Round(time.Second)
		if secret.ID == lost.Keep || lost.Spared[secret.ID] || secret.ExpireTime.IsZero() || life != lost.Lifetime ||
			secret.CreateTime.Before(lost.Earliest) || secret.CreateTime.After(lost.Possibly) {
			continue
		}
		if secret.CreateTime.After(lost.Latest) {
			late = append(late, secret.ID)
			continue
		}
		fitting = append(fitting, secret.ID)
	}
	switch {
	case len(fitting) == 0 && len(late) == 0:
		return nil, nil
	case len(fitting) == 0:
		return nil, fmt.Errorf("OAuth secrets of service principal %s could be the one whose creation was not completed, or another client's (%s), %w; it ends by itself by %s", lost.ServicePrincipalID, strings.Join(late, ", "), ErrAmbiguous, rfc3339(lost.Expires))
	case len(fitting) == 1:
		return fitting, deleteOAuthSecret(ctx, conn, lost.ServicePrincipalID, fitting[0])
	default:
		return nil, fmt.Errorf("%d OAuth secrets of service principal %s could be the one whose creation was not completed, %w; it ends by itself by %s", len(fitting), lost.ServicePrincipalID, ErrAmbiguous, rfc3339(lost.Expires))
	}
}

// explainSecretQuota adds to the refusal of a sixth secret what the limit is, how many there are, and the way out. The code
// of that refusal isn't documented, so the count decides, unless the answer has a Retry-After.
func explainSecretQuota(ctx context.Context, conn Conn, spec Spec, err error) error {
	principalID := spec.ServicePrincipalID
	var remote *client.Error
	if !errors.As(err, &remote) || remote.RetryAfter > 0 || remote.Kind != client.QuotaExceeded && remote.Kind != client.Refused && remote.Kind != client.Throttled {
		return ExplainPrincipal(err, principalID)
	}
	secrets, listErr := conn.Client().ListOAuthSecrets(ctx, principalID)
	if listErr != nil || len(secrets) < MaxOAuthSecrets {
		return ExplainPrincipal(err, principalID)
	}
	instead := fmt.Sprintf("use a role of credential_type %s or %s", OAuthToken, ServicePrincipal)
	if spec.Stored {
		instead = "wait until the grace of a replaced one ends (a shorter rotation_grace_period needs fewer)"
	}
	return explain("a service principal can have %d OAuth secrets, and %s has %d; revoke a lease of it (vault lease revoke -prefix …), delete an operator-created secret, or %s: %w",
		MaxOAuthSecrets, principalID, len(secrets), instead, err)
}
