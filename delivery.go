// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"vault-plugin-secrets-databricks/internal/client"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// deliveryOf reads where the credential is to be put besides the lease; nil for nowhere.
func deliveryOf(req *logical.Request, data *framework.FieldData) (*secretIntent, error) {
	// Policies let empty values pass, whatever values they allow, so here they must not mean that the caller is to see the credential.
	for _, field := range []string{keyDeliverScope, keyDeliverKey, keyDeliverUC} {
		if _, sent := data.Raw[field]; sent && data.Get(field) == "" {
			return nil, badField(field, "is empty; send a name, or leave it out")
		}
	}
	ref := secretRef{Scope: data.Get(keyDeliverScope).(string), Key: data.Get(keyDeliverKey).(string), UC: data.Get(keyDeliverUC).(string)}
	switch {
	case ref == secretRef{}:
		return nil, nil
	case req.Operation != logical.UpdateOperation:
		// A policy that allows only reads must not allow writing secrets.
		return nil, badField(ref.placeField(), "can't be used with a read; write to creds/<role> instead")
	case ref.UC != "" && (ref.Scope != "" || ref.Key != ""):
		return nil, badField(keyDeliverUC, "can't be sent together with %s and %s; send one place", keyDeliverScope, keyDeliverKey)
	case ref.UC != "":
	case ref.Scope == "":
		return nil, badField(keyDeliverScope, "is missing; %s needs it", keyDeliverKey)
	case ref.Key == "":
		return nil, badField(keyDeliverKey, "is missing; %s needs it", keyDeliverScope)
	}
	return &secretIntent{secretRef: ref}, ref.checkDelivery()
}

// placeField and deliverField return the fields of a delivery that have the place of the secret, and its own name.
func (p secretRef) placeField() string {
	if p.UC != "" {
		return keyDeliverUC
	}
	return keyDeliverScope
}

func (p secretRef) deliverField() string {
	if p.UC != "" {
		return keyDeliverUC
	}
	return keyDeliverKey
}

// checkDelivery refuses names that no secret can have, by the fields of a delivery.
func (p secretRef) checkDelivery() error {
	if p.UC != "" {
		_, err := parseUCName(keyDeliverUC, p.UC)
		return err
	}
	return p.check(keyDeliverScope, keyDeliverKey)
}

// forgetOtherPlace drops the stored half of a delivery whose other half the request ends, and the stored place of one kind where the request
// names one of the other. An empty field names none.
func (r *staticRole) forgetOtherPlace(data *framework.FieldData) {
	_, scope := data.Raw[keyDeliverScope]
	_, key := data.Raw[keyDeliverKey]
	_, uc := data.Raw[keyDeliverUC]
	namesScope := scope && r.DeliverScope != "" || key && r.DeliverKey != ""
	namesUC := uc && r.DeliverUC != ""
	switch {
	case namesUC && !namesScope:
		r.DeliverScope, r.DeliverKey = "", ""
	case namesScope && !namesUC:
		r.DeliverUC = ""
	case scope && r.DeliverScope == "" && !key:
		r.DeliverKey = ""
	case key && r.DeliverKey == "" && !scope:
		r.DeliverScope = ""
	}
}

// checkSchema returns an error for a secret whose schema doesn't exist, or can't be looked for.
func (i *staticItem) checkSchema(ctx context.Context, ref secretRef) error {
	catalog, schema, _ := ref.ucNames()
	err := i.conn.client.CheckUCSchema(ctx, catalog, schema)
	if client.IsGone(err) {
		return badField(keyDeliverUC, "there is no schema %s.%s in Unity Catalog at %s; create it first", catalog, schema, i.conn.config.Host)
	}
	return explainUC(err, ref.UC)
}
